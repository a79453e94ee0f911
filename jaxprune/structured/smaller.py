"""A whole model made smaller by one call."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.structured.comparison import relative_error
from jaxprune.structured.graph import Graph, trace
from jaxprune.structured.modules import Call, ModuleParts, split_module
from jaxprune.structured.plan import Plan
from jaxprune.structured.prune import prune
from jaxprune.structured.removal import removal
from jaxprune.structured.report import Report, report
from jaxprune.structured.shrink import Small, shrink_silently
from jaxprune.types import Masks, Params

__all__ = ["Smaller", "SmallerReport", "smaller"]

_TOLERANCE = {2: 0.1, 4: 1e-3, 8: 1e-6}  # by the bytes of a number


class SmallerReport:
    """What became smaller, what was left alone, and how far the small function is from the masked one.

    Attributes:
      figures: before and after (`structured.Report`).
      left_alone: group -> why it lost nothing.
      error: the largest difference of an output of the small and the masked function, over its own largest
        size; `None`: the inputs were shapes, and nothing was run.
    """

    def __init__(self, figures: Report, left_alone: Mapping[str, str], error: float | None) -> None:
        self.figures = figures
        self.left_alone = dict(left_alone)
        self.error = error

    def __str__(self) -> str:
        lines = [str(self.figures)]
        lines += [f"left alone: {name}: {why}" for name, why in self.left_alone.items()]
        if self.error is None:
            lines.append("not compared with the masked function: the inputs are shapes")
        else:
            lines.append(f"relative error beside the masked function: {self.error:.1e}")
        return "\n".join(lines)

    __repr__ = __str__


class Smaller:
    """A model that was made smaller: `model(*inputs)`.

    Attributes:
      params: what is left of its arrays; they may be trained and put back.
      apply: (params, *inputs) -> outputs, in evaluation mode.
      like: another function (params, *inputs) of the whole arrays -> the same on what is left, such as a step
        in training mode (`structured.Small.like`).
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
        told: SmallerReport,
        following: Callable[..., "Smaller"] | None,
    ) -> None:
        self.params = small.params
        self.apply = small.apply
        self.like = small.like
        self.plan: Plan = small.plan
        self.masks = masks
        self.graph = graph
        self.merge = merge
        self.report = told
        self._following = following
        self._compiled = jax.jit(small.apply)

    def __call__(self, *inputs: Any) -> Any:
        """What the small model makes of inputs."""
        return self._compiled(self.params, *inputs)

    def __repr__(self) -> str:
        before, after = self.report.figures.parameters
        return f"Smaller({before:,} parameters, {after:,} left)"

    @property
    def done(self) -> bool:
        """Whether there is no further step."""
        return self._following is None

    def step(self, params: Params | None = None, **signals: Any) -> "Smaller":
        """The next of several steps: what is left is pruned again.

        Args:
          params: the small parameters, trained on; `None`: those of this object.
          **signals: what the criterion reads, over the small parameters.

        Raises:
          ValueError: after the last step.
        """
        if self._following is None:
            raise ValueError("structured.smaller: there is no further step; steps= sets how many.")
        whole = functools.partial(_grown, self.graph.params, self.plan)
        signals = {name: whole(x) if _like(x, self.params) else x for name, x in signals.items()}
        return self._following(
            whole(self.params if params is None else params), self.masks, **signals
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
    """Makes a model smaller: traces it, prunes it, cuts it, and compares it once with the masked one.

    The model itself stays as it is; what is pruned is a copy in evaluation mode. Modules of linen and NNX
    whose call asks for it are called with `train=False`, `deterministic=True` and the like.

    Args:
      module: an NNX or Equinox module, or a pair (linen module, variables) or (function, parameters).
      *inputs: trees of arrays, as the model takes them; or of shapes, and nothing is compared.
      sparsity: fraction of the units removed, or fractions by group, as of `structured.prune`: heads and the
        channels of each head are two groups, and may each have a fraction of its own.
      steps: in how many steps that is reached, each removing the same fraction of what is left. The result
        is that of the first; train its parameters, and go on with `result.step(params)`.
      latency: whether the report measures times, which compiles the model twice.
      call: (module, *inputs) -> outputs, in place of a plain call: `lambda m, x: jax.vmap(m)(x)`.
      **options: others of `structured.prune`: criterion, scope, cap, only, exclude, inexact, signals.

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

    def at(index: int, params: Params, masks: Masks | None, **signals: Any) -> Smaller:
        rate = _share(sparsity, (index + 1) / steps)
        given = {**options, **signals}
        found = prune(graph, params, sparsity=rate, masks=masks, **given)
        following = functools.partial(at, index + 1) if index + 1 < steps else None
        return _made(graph, parts, params, found, inputs, given, latency, following)

    return at(0, parts.params, None)


def _share(sparsity: Any, share: float) -> Any:
    """The sparsity after some of the steps, each of which removes the same fraction of what is left."""
    if share == 1:
        return sparsity
    if isinstance(sparsity, Mapping):
        return {name: _share(rate, share) for name, rate in sparsity.items()}
    return 1 - (1 - sparsity) ** share


def _made(
    graph: Graph,
    parts: ModuleParts,
    params: Params,
    masks: Masks,
    inputs: Any,
    options: Mapping[str, Any],
    latency: bool,
    following: Callable[..., Smaller] | None,
) -> Smaller:
    small = shrink_silently(graph, params, masks)
    known = not any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(inputs))
    measured = inputs if latency and known else ()
    figures = report(graph, params, masks, *measured)
    error = _compared(graph, small, params, masks, inputs) if known else None
    told = SmallerReport(figures, _left_alone(graph, masks, options), error)
    return Smaller(small, masks, graph, parts.merge, told, following)


def _compared(graph: Graph, small: Small, params: Params, masks: Masks, inputs: Any) -> float:
    """How far the small function is from the masked one, with a warning if that is far."""
    ours = jax.jit(small.apply)(small.params, *inputs)
    theirs = jax.jit(graph.fn)(masks_lib.apply(params, masks), *inputs)
    error = relative_error(ours, theirs)
    floating = [x for x in jax.tree.leaves(theirs) if jnp.issubdtype(x.dtype, jnp.inexact)]
    bytes_ = min((x.dtype.itemsize for x in floating), default=4)
    if not error <= _TOLERANCE.get(bytes_, 0.1):
        gone = removal(graph, masks).classes
        guilty = [g for g in graph.groups if not g.exact and gone[g.units].any()]
        why = "".join(f"; {group.name!r}: {group.reason}" for group in guilty)
        warnings.warn(
            f"structured.smaller: the small function differs from the masked one by {error:.1e} of its "
            f"largest output{why}; structured.verify tells which group does.",
            stacklevel=5,
        )
    return error


def _left_alone(graph: Graph, masks: Masks, options: Mapping[str, Any]) -> dict[str, str]:
    """Why groups that lose nothing do not."""
    gone, found = removal(graph, masks).classes, {}
    taken = [group for group in graph.groups if gone[group.units].any()]
    for group in graph.groups:
        if gone[group.units].any():
            continue
        axes = {(m.path, m.axis) for m in group.members}
        others = [g.name for g in taken if axes & {(m.path, m.axis) for m in g.members}]
        if not group.exact and options.get("inexact", "skip") == "skip":
            found[group.name] = f"not exact: {group.reason}; inexact='allow' prunes it"
        elif group.size == 1:
            found[group.name] = "it has one unit"
        elif others:
            found[group.name] = (
                f"it shares axes with {others[0]}; a sparsity of its own prunes both"
            )
        else:
            found[group.name] = "left out by only=, exclude=, its sparsity or scores, or too small"
    if graph.unknown:
        named = ", ".join(sorted(graph.unknown))
        found["what else is pinned"] = f"touched by primitives without a rule: {named}"
    return found


def _like(tree: Any, params: Params) -> bool:
    return jax.tree.structure(tree) == jax.tree.structure(params)


def _grown(shapes: Params, plan: Plan, tree: Any) -> Any:
    """A tree over what is left of the parameters, with zeros for what is gone."""

    def grown(path: str, shape: Any, x: Any) -> Any:
        kept = plan.kept.get(path)
        if not kept:
            return x
        places = np.ix_(*(kept.get(axis, range(n)) for axis, n in enumerate(shape.shape)))
        return jnp.zeros(shape.shape, x.dtype).at[places].set(x)

    paths = masks_lib.paths(shapes)
    leaves = zip(paths, jax.tree.leaves(shapes), jax.tree.leaves(tree), strict=True)
    return jax.tree.structure(tree).unflatten([grown(*leaf) for leaf in leaves])
