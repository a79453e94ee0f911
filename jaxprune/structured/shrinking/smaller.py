"""Makes a whole model smaller by one call: trace, prune, shrink, compare."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.structured.graph.graph import Graph, trace
from jaxprune.structured.prune import prune
from jaxprune.structured.report import Report, report
from jaxprune.structured.shrinking.comparison import relative_error
from jaxprune.structured.shrinking.modules import Call, ModuleParts, split_module
from jaxprune.structured.shrinking.plan import Plan
from jaxprune.structured.shrinking.removal import removal
from jaxprune.structured.shrinking.shrink import Small, shrink_silently
from jaxprune.types import Masks, Params
from jaxprune.units.coupling import Group

__all__ = ["Smaller", "SmallerReport", "smaller"]

_TOLERANCE = {2: 0.1, 4: 1e-3, 8: 1e-6}  # by the bytes of a number


class SmallerReport:
    """Figures before and after, why groups lost nothing, and the error. Printed, it is a table.

    Attributes:
      figures: before and after (`structured.Report`).
      left_alone: name of a group -> why it lost nothing.
      error: the largest difference of an output of the small and the masked function, relative to its largest
        number; `None`: the inputs were shapes, and nothing was run.
    """

    def __init__(self, figures: Report, left_alone: Mapping[str, str], error: float | None) -> None:
        self.figures = figures
        self.left_alone = dict(left_alone)
        self.error = error

    def __str__(self) -> str:
        lines = [str(self.figures)]
        lines += [f"left alone: {name}: {reason}" for name, reason in self.left_alone.items()]
        if self.error is None:
            lines.append("not compared with the masked function: the inputs are shapes")
        else:
            lines.append(f"relative error beside the masked function: {self.error:.1e}")
        return "\n".join(lines)

    __repr__ = __str__


class Smaller:
    """A model that was made smaller, to be called as `model(*inputs)`.

    Attributes:
      params: what is left of its arrays; they may be trained and put back.
      apply: (params, *inputs) -> outputs, in evaluation mode.
      like: another function (params, *inputs) of the whole arrays -> that function on the small arrays, such
        as a step in training mode (`structured.Small.like`).
      merge: whole arrays -> the module as it was given, in its own mode; for functions that `like` takes.
      plan: which indices of which axes are left.
      masks: of what is left, over the whole arrays.
      graph: of the function, with its groups.
      report: what was saved, and what was left alone.
    """

    def __init__(
        self,
        small: Small,
        masks: Masks,
        graph: Graph,
        merge: Callable[[Any], Any],
        figures: SmallerReport,
        next_step: Callable[..., "Smaller"] | None,
    ) -> None:
        self.params = small.params
        self.apply = small.apply
        self.like = small.like
        self.plan: Plan = small.plan
        self.masks = masks
        self.graph = graph
        self.merge = merge
        self.report = figures
        self._next_step = next_step
        self._compiled = jax.jit(small.apply)

    def __call__(self, *inputs: Any) -> Any:
        """Returns the outputs of the small model.

        Args:
          *inputs: trees of arrays, as the model takes them.
        """
        return self._compiled(self.params, *inputs)

    def __repr__(self) -> str:
        before, after = self.report.figures.parameters
        return f"Smaller({before:,} parameters, {after:,} left)"

    @property
    def done(self) -> bool:
        """Whether there is no further step."""
        return self._next_step is None

    def step(self, params: Params | None = None, **signals: Any) -> "Smaller":
        """Prunes what is left again: the next of several steps.

        Args:
          params: the small parameters, trained on; `None`: those of this object.
          **signals: what the criterion reads, over the small parameters.

        Raises:
          ValueError: after the last step.
        """
        if self._next_step is None:
            raise ValueError("structured.smaller: there is no further step; steps= sets how many.")
        restore = functools.partial(_fill_with_zeros, self.graph.params, self.plan)
        signals = {
            name: restore(signal) if _has_structure_of(self.params, signal) else signal
            for name, signal in signals.items()
        }
        return self._next_step(
            restore(self.params if params is None else params), self.masks, **signals
        )


def smaller(
    module: Any,
    *inputs: Any,
    sparsity: float | Mapping[str, float] | None = None,
    steps: int = 1,
    latency: bool = False,
    call: Call | None = None,
    **options: Any,
) -> Smaller:
    """Returns a smaller model: traces it, prunes it, shrinks it, and compares it once with the masked one.

    The model itself is not changed: a copy in evaluation mode is pruned. Modules of linen and NNX whose call
    has such arguments are called with `train=False`, `deterministic=True` and the like.

    Args:
      module: an NNX or Equinox module, or a pair (linen module, variables) or (function, parameters).
      *inputs: trees of arrays, as the model takes them; or trees of shapes, and then nothing is compared.
      sparsity: fraction of the units removed, in [0, 1), or fractions by group, as of `structured.prune`:
        heads and the channels of each head are two groups, and may each have a fraction of its own.
      steps: number of steps in which the sparsity is reached, each removing the same fraction of what is
        left. The result is that of the first step; train its parameters, and continue with
        `result.step(params)`.
      latency: whether the report measures times, which compiles the model twice.
      call: (module, *inputs) -> outputs, in place of a plain call: `lambda m, x: jax.vmap(m)(x)`.
      **options: others of `structured.prune`: criterion, scope, cap, only, exclude, inexact, signals.

    Returns:
      The small model after the first step, with its report.

    Raises:
      ValueError: if there are no steps, several steps and no sparsity, nothing that can be removed, or an
        argument that `structured.prune` refuses.
      TypeError: if `module` is none of these.

    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    >>> small = smaller((fn, params), jnp.ones((1, 3)), sparsity=0.5)
    >>> small, small(jnp.ones((1, 3))).tolist(), small.report.error
    (Smaller(40 parameters, 20 left), [[12.0, 12.0]], 0.0)
    """
    if steps < 1:
        raise ValueError(f"structured.smaller(steps={steps}): at least 1 is needed.")
    if steps > 1 and (sparsity is None or "budget" in options):
        raise ValueError("structured.smaller: several steps need a sparsity, which they share out.")
    parts = split_module(module, call)
    graph = trace(parts.fn, parts.params, *inputs)
    if not graph.groups:
        raise ValueError(
            f"structured.smaller: nothing of this model can be removed.\n{graph.summary()}"
        )

    def step_at(index: int, params: Params, masks: Masks | None, **signals: Any) -> Smaller:
        sparsity_now = _sparsity_after(sparsity, (index + 1) / steps)
        all_options = {**options, **signals}
        new_masks = prune(graph, params, sparsity=sparsity_now, masks=masks, **all_options)
        next_step = functools.partial(step_at, index + 1) if index + 1 < steps else None
        return _shrink_and_report(
            graph, parts, params, new_masks, inputs, all_options, latency, next_step
        )

    return step_at(0, parts.params, None)


def _sparsity_after(sparsity: Any, share: float) -> Any:
    """Returns the sparsity after a share of the steps, each removing the same fraction of what is left."""
    if share == 1:
        return sparsity
    if isinstance(sparsity, Mapping):
        return {name: _sparsity_after(fraction, share) for name, fraction in sparsity.items()}
    return 1 - (1 - sparsity) ** share


def _shrink_and_report(
    graph: Graph,
    parts: ModuleParts,
    params: Params,
    masks: Masks,
    inputs: Any,
    options: Mapping[str, Any],
    latency: bool,
    next_step: Callable[..., Smaller] | None,
) -> Smaller:
    """Returns the small model of some masks with its report (arguments as of `smaller`)."""
    small = shrink_silently(graph, params, masks)
    are_arrays = not any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(inputs))
    timed_inputs = inputs if latency and are_arrays else ()
    figures = report(graph, params, masks, *timed_inputs)
    error = _compare(graph, small, params, masks, inputs) if are_arrays else None
    full_report = SmallerReport(figures, _reasons_left_alone(graph, masks, options), error)
    return Smaller(small, masks, graph, parts.merge, full_report, next_step)


def _compare(graph: Graph, small: Small, params: Params, masks: Masks, inputs: Any) -> float:
    """Returns the error of the small function beside the masked one; warns if it is more than rounding."""
    small_outputs = jax.jit(small.apply)(small.params, *inputs)
    masked_outputs = jax.jit(graph.fn)(masks_lib.apply(params, masks), *inputs)
    error = relative_error(small_outputs, masked_outputs)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(masked_outputs)]
    item_sizes = [dtype.itemsize for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    if not error <= _TOLERANCE.get(min(item_sizes, default=4), 0.1):
        removed = removal(graph, masks)
        inexact_groups = [
            group
            for group in graph.groups
            if not group.exact and removed.classes[group.units].any()
        ]
        reasons = "".join(f"; {group.name!r}: {group.reason}" for group in inexact_groups)
        warnings.warn(
            f"structured.smaller: the small function differs from the masked one by {error:.1e} of its "
            f"largest output{reasons}; structured.verify tells which group does.",
            stacklevel=5,  # the caller of `smaller`
        )
    return error


def _reasons_left_alone(graph: Graph, masks: Masks, options: Mapping[str, Any]) -> dict[str, str]:
    """Returns why groups lose nothing, by the name of the group."""
    removed = removal(graph, masks)
    reasons = {}
    pruned_groups = [group for group in graph.groups if removed.classes[group.units].any()]
    for group in graph.groups:
        if removed.classes[group.units].any():
            continue
        axes = _axes_of(group)
        overlapping = [other.name for other in pruned_groups if axes & _axes_of(other)]
        if not group.exact and options.get("inexact", "skip") == "skip":
            reasons[group.name] = f"not exact: {group.reason}; inexact='allow' prunes it"
        elif group.size == 1:
            reasons[group.name] = "it has one unit"
        elif overlapping:
            reasons[group.name] = (
                f"it shares axes with {overlapping[0]}; a sparsity of its own prunes both"
            )
        else:
            reasons[group.name] = (
                "left out by only=, exclude=, its sparsity or scores, or too small"
            )
    if graph.unknown:
        primitives = ", ".join(sorted(graph.unknown))
        reasons["what else is pinned"] = f"touched by primitives without a rule: {primitives}"
    return reasons


def _axes_of(group: Group) -> set[tuple[str, int]]:
    """Returns path and axis of each member of a group."""
    return {(member.path, member.axis) for member in group.members}


def _has_structure_of(params: Params, tree: Any) -> bool:
    return jax.tree.structure(tree) == jax.tree.structure(params)


def _fill_with_zeros(shapes: Params, plan: Plan, tree: Any) -> Any:
    """Returns a tree of what is left in the shapes of the whole parameters, with zeros elsewhere.

    Args:
      shapes: of the whole parameters.
      plan: which indices are left.
      tree: with the structure of the parameters, of what is left.
    """

    def fill(path: str, whole_shape: tuple[int, ...], leaf: Any) -> Any:
        kept = plan.kept.get(path)
        if not kept:
            return leaf
        kept_indices = np.ix_(
            *(kept.get(axis, range(size)) for axis, size in enumerate(whole_shape))
        )
        return jnp.zeros(whole_shape, leaf.dtype).at[kept_indices].set(leaf)

    paths = masks_lib.paths(shapes)
    leaves = zip(paths, jax.tree.leaves(shapes), jax.tree.leaves(tree), strict=True)
    filled = [fill(path, whole_leaf.shape, leaf) for path, whole_leaf, leaf in leaves]
    return jax.tree.structure(tree).unflatten(filled)
