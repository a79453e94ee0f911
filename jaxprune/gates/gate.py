"""The protocol of gates: trainable arrays beside the parameters, which decide which weights take part.

A gate turns `params` into `theta = Gated(params, gates)`, one pytree for one optax optimizer. The loss is
taken at `gate.sample(theta, key)`, a tree like `params`; `gate.finalize(theta)` is the network that is left.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, kernel_axes
from jaxprune import masks as masks_lib
from jaxprune.calls import is_traced
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.trees import check_distinct, differences
from jaxprune.trees.alike import join_faults
from jaxprune.types import Axes, Masks, Params, Pattern, Step

__all__ = ["Gate", "Gated", "Rule", "unit_shapes"]

Leaves = dict[str, jax.Array]  # by path


class Gated(NamedTuple):
    """Parameters with gates beside them: what the optimizer trains.

    Attributes:
      params: tree of arrays, as the model takes it.
      gates: float32 arrays by the path of the leaf that they gate. As a prefix of the tree, `Gated("weights",
        "gates")` labels the two for `optax.partition`, for learning rates of their own.
    """

    params: Params
    gates: dict[str, jax.Array]


GATED = checks.Kind(
    "a Gated",
    lambda value: isinstance(value, Gated),
    lambda _: "theta = gate.init(params, key) makes one, of parameters and gates",
)


class Gate(NamedTuple):
    """A reparameterisation of the weights with trainable gates.

    Every function except `init` and `project` takes `step`, the number of updates done; it is needed if
    something is scheduled: a temperature, a sparsity, the strength of a penalty. Without `step`, `finalize`
    gives the network at the end of the schedule.

    Attributes:
      init: (params, key) -> theta.
      sample: (theta, key, step) -> parameters of one forward pass, differentiable in theta.
      penalty: (theta, step) -> what to add to the loss, a float32 scalar.
      expected_l0: (theta) -> how many of the gated weights are expected not to be zero, a float32 scalar.
      finalize: (theta, step) -> (params, masks) of the sparse network, without noise. Gates that are NaN are
        refused, unless they are traced.
      project: () -> an optax transform for the end of the chain: keeps gates within their bounds, and frozen
        weights where they are.
      moments: (theta, step) -> means and variances of normally distributed weights, dicts by path; `None`
        where weights are not normal. `apply` draws activations instead of such weights.
    """

    init: Callable[[Params, jax.Array], Gated]
    sample: Callable[..., Params]
    penalty: Callable[..., jax.Array]
    expected_l0: Callable[[Gated], jax.Array]
    finalize: Callable[..., tuple[Params, Masks]]
    project: Callable[[], optax.GradientTransformationExtraArgs]
    moments: Callable[..., tuple[Leaves, Leaves]] | None = None


class Rule(NamedTuple):
    """How leaves are gated. `leaves` and `gates` are dicts by path, `step` may be `None`.

    Attributes:
      init: (leaves, key) -> gates.
      sample: (leaves, gates, key, step) -> leaves of one forward pass.
      final: (leaves, gates, step) -> (leaves, masks), dicts by path.
      alive: (leaves, gates) -> expected number of weights that are not zero.
      cost: (leaves, gates, step) -> penalty.
      bounds: the interval in which `project` keeps the gates.
      frozen: whether the parameters, all of them, stay as they are and the gates alone learn.
      moments: (leaves, gates, step) -> (means, variances), dicts by path.
    """

    init: Callable[[Leaves, jax.Array], Leaves]
    sample: Callable[[Leaves, Leaves, jax.Array | None, Step | None], Leaves]
    final: Callable[[Leaves, Leaves, Step | None], tuple[Leaves, Leaves]]
    alive: Callable[[Leaves, Leaves], jax.Array]
    cost: Callable[[Leaves, Leaves, Step | None], Any]
    bounds: tuple[float, float] | None = None
    frozen: bool = False
    moments: Callable[[Leaves, Leaves, Step | None], tuple[Leaves, Leaves]] | None = None


_RULE = checks.Kind(
    "a gates.Rule",
    lambda value: isinstance(value, Rule),
    lambda _: "gates.hard_concrete() and the like make gates that are ready",
)


def gate_of(rule: Rule, prunable: Prunable = None, *, axes: AxesTree | None = None) -> Gate:
    """Returns the `Gate` for any tree that follows a `Rule` for its gated leaves.

    Args:
      rule: how leaves are gated, functions of dicts by path (see `Rule`).
      prunable: which leaves are gated (see `jaxprune.masks.make`).
      axes: what the program does with the leaves (`jaxprune.axes`), for the default filter. A rule for which
        inputs, outputs or layers count finds them by `jaxprune.kernel_axes.by_path(axes, leaves)`.

    Returns:
      A gate.

    >>> rule = Rule(  # weights times gates, of which those above 0 stay
    ...     init=lambda leaves, key: {path: jnp.ones(leaf.shape) for path, leaf in leaves.items()},
    ...     sample=lambda leaves, gates, key, step: {path: leaves[path] * gates[path] for path in leaves},
    ...     final=lambda leaves, gates, step: (leaves, {path: gates[path] > 0 for path in leaves}),
    ...     alive=lambda leaves, gates: sum((gate > 0).sum() for gate in gates.values()),
    ...     cost=lambda leaves, gates, step: sum(jnp.abs(gate).sum() for gate in gates.values()),
    ... )
    >>> gate = gate_of(rule)
    >>> theta = gate.init({"w": jnp.array([[3.0, -1.0]])}, jax.random.key(0))
    >>> theta = theta._replace(gates={"w": jnp.array([[0.5, -0.2]])})
    >>> gate.finalize(theta)[0], gate.expected_l0(theta), gate.penalty(theta)
    ({'w': Array([[3., 0.]], dtype=float32)}, Array(1., dtype=float32), Array(0.7, dtype=float32))
    """

    checks.check("gate_of", rule=(rule, _RULE))
    gate_shapes: dict[Any, Any] = {}

    def checked_leaves(theta: Gated) -> Leaves:
        """Returns the gated leaves; refuses gates that belong to another tree, or another gate."""
        leaves = _gated_leaves(theta)
        tree_key = tuple(
            (path, jnp.shape(leaf), jnp.result_type(leaf)) for path, leaf in leaves.items()
        )
        if tree_key not in gate_shapes:
            gate_shapes[tree_key] = jax.eval_shape(rule.init, leaves, jax.random.key(0))
        _check_shapes(theta.gates, gate_shapes[tree_key])
        return leaves

    def init(params: Params, key: jax.Array) -> Gated:
        checks.check("gate.init", params=(params, checks.TREE), key=(key, checks.KEY))
        kernel_axes.of_leaves(axes, params)  # refuses axes that do not fit the tree
        masks = masks_lib.beside(params, masks_lib.make(params, prunable, axes=axes))
        pairs = zip(masks_lib.paths(params), masks, strict=True)
        chosen = {path for path, mask in pairs if mask is not None}
        leaves = {path: leaf for path, leaf in _leaves_by_path(params).items() if path in chosen}
        return Gated(params, rule.init(leaves, key))

    def sample(theta: Gated, key: jax.Array | None = None, step: Step | None = None) -> Params:
        checks.check("gate.sample", theta=(theta, GATED), key=(key, checks.optional(checks.KEY)))
        params = jax.lax.stop_gradient(theta.params) if rule.frozen else theta.params
        theta = theta._replace(params=params)
        return _replace_leaves(params, rule.sample(checked_leaves(theta), theta.gates, key, step))

    def penalty(theta: Gated, step: Step | None = None) -> jax.Array:
        checks.check("gate.penalty", theta=(theta, GATED))
        return jnp.asarray(rule.cost(checked_leaves(theta), theta.gates, step), jnp.float32)

    def expected_l0(theta: Gated) -> jax.Array:
        checks.check("gate.expected_l0", theta=(theta, GATED))
        return jnp.asarray(rule.alive(checked_leaves(theta), theta.gates), jnp.float32)

    def finalize(theta: Gated, step: Step | None = None) -> tuple[Params, Masks]:
        checks.check("gate.finalize", theta=(theta, GATED))
        leaves = checked_leaves(theta)
        _refuse_nan(theta.gates)
        leaves, kept_masks = rule.final(leaves, theta.gates, step)
        treedef = jax.tree.structure(theta.params)
        masks = treedef.unflatten(kept_masks.get(path) for path in masks_lib.paths(theta.params))
        return masks_lib.apply(_replace_leaves(theta.params, leaves), masks), masks

    def moments(theta: Gated, step: Step | None = None) -> tuple[Leaves, Leaves]:
        checks.check("gate.moments", theta=(theta, GATED))
        assert rule.moments is not None
        return rule.moments(checked_leaves(theta), theta.gates, step)

    return Gate(
        init,
        sample,
        penalty,
        expected_l0,
        finalize,
        lambda: _project(rule),
        moments if rule.moments else None,
    )


def _leaves_by_path(params: Params) -> Leaves:
    """Returns the leaves of a tree by path; refuses two of the same path."""
    paths = masks_lib.paths(params)
    check_distinct("gates", paths)
    return dict(zip(paths, jax.tree.leaves(params), strict=True))


def _gated_leaves(theta: Gated) -> Leaves:
    """Returns the gated leaves by path, in the order of the tree; refuses gates of another tree."""
    leaf_by_path = _leaves_by_path(theta.params)
    lost_paths = [path for path in theta.gates if path not in leaf_by_path]
    if lost_paths:
        raise ValueError(
            f"gates: theta.gates has {lost_paths[0]!r}, but the leaves of theta.params are "
            f"{', '.join(leaf_by_path)}; after a change of the tree begin with gate.init(params, key) again."
        )
    return {path: leaf for path, leaf in leaf_by_path.items() if path in theta.gates}


def _check_shapes(gates: Mapping[str, Any], expected_shapes: Mapping[str, Any]) -> None:
    """Raises `ValueError` if gates have other shapes than those of this gate."""
    faults = [
        f"{path!r} has gates of the shape {jnp.shape(gate)}, this gate {expected_shapes[path].shape}"
        for path, gate in gates.items()
        if jnp.shape(gate) != expected_shapes[path].shape
    ]
    if faults:
        raise ValueError(
            f"gates: {join_faults(faults)}; begin with gate.init(params, key) of this gate."
        )


def _refuse_nan(gates: Mapping[str, Any]) -> None:
    """Raises `ValueError` if gates are NaN, and not traced: they say neither that a weight stays nor goes."""
    with jax.ensure_compile_time_eval():
        are_nan = {
            path: jnp.isnan(gate).any() for path, gate in gates.items() if not is_traced(gate)
        }
    for path, is_nan in are_nan.items():
        if is_nan:
            raise ValueError(
                f"gate.finalize: the gates of {path!r} hold NaN, by which no weight stays or goes; give "
                "theta of a training that did not diverge."
            )


def _replace_leaves(params: Params, leaves: Leaves) -> Params:
    """Returns `params` with these leaves in place of its own, in its own dtypes."""
    leaves_by_path = _leaves_by_path(params).items()
    return jax.tree.structure(params).unflatten(
        jnp.asarray(leaves[path], old_leaf.dtype) if path in leaves else old_leaf
        for path, old_leaf in leaves_by_path
    )


def _is_gated(node: Any) -> bool:
    return isinstance(node, Gated)


def _project(rule: Rule) -> optax.GradientTransformationExtraArgs:
    """Returns the transform that keeps gates within bounds, and frozen weights where they are."""

    def constrain(update: Any, node: Any) -> Any:
        if not _is_gated(node):
            return update
        param_updates, gate_updates = update
        if rule.frozen:
            param_updates = jax.tree.map(jnp.zeros_like, param_updates)
        if rule.bounds is not None:
            lowest, highest = rule.bounds
            gate_updates = jax.tree.map(
                lambda step, gate: jnp.clip(gate + step, lowest, highest) - gate,
                gate_updates,
                node.gates,
            )
        return Gated(param_updates, gate_updates)

    def update(
        updates: Any, state: optax.EmptyState, params: Any = None, **_: Any
    ) -> tuple[Any, optax.EmptyState]:
        if params is None:
            raise ValueError("gate.project: update(updates, state, params) needs the parameters.")
        remedy = "take the gradients with respect to theta, the parameters and gates of gate.init"
        if jax.tree.structure(updates) != jax.tree.structure(params):
            difference = differences(masks_lib.paths(updates), masks_lib.paths(params))
            raise ValueError(
                f"gate.project: the updates are another tree than the parameters ({difference}); {remedy}."
            )
        return jax.tree.map(constrain, updates, params, is_leaf=_is_gated), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)  # type: ignore


def unit_shapes(
    leaves: Leaves, patterns: Mapping[str, Pattern], kernels: Mapping[str, Axes | None]
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the units that a pattern makes of each leaf; refuses leaves that do not fit it.

    Args:
      leaves: by path.
      patterns: by path.
      kernels: axes of the leaves, by path.
    """
    shapes = {}
    for path, leaf in leaves.items():
        pattern = patterns[path]
        kernel = kernels[path]
        fault = pattern.check(leaf.shape, kernel)
        if fault:
            raise ValueError(fault.format(leaf=repr(path)) + ".")
        units = jax.eval_shape(
            lambda leaf, pattern=pattern, kernel=kernel: pattern.to_groups(leaf, kernel), leaf
        )
        shapes[path] = units.shape
    return shapes


def layer_shapes(leaves: Leaves, axes: AxesTree | None) -> dict[str, tuple[int, ...]]:
    """Returns the shape of one number per layer of each leaf, to broadcast against it; `()` for one layer.

    >>> from jaxprune.types import Axes
    >>> layer_shapes({"layers": jnp.ones((5, 2, 3))}, {"layers": Axes(1, 2, batch_axis=0)})
    {'layers': (5, 1, 1)}
    """
    within_layers = axes_within_layers(leaves, axes)

    def layer_shape(leaf: jax.Array, inner_axes: tuple[int, ...]) -> tuple[int, ...]:
        if len(inner_axes) == leaf.ndim:
            return ()
        return tuple(1 if axis in inner_axes else size for axis, size in enumerate(leaf.shape))

    return {path: layer_shape(leaf, within_layers[path]) for path, leaf in leaves.items()}


def axes_within_layers(leaves: Leaves, axes: AxesTree | None) -> dict[str, tuple[int, ...]]:
    """Returns the axes along which the weights of one layer lie, for each leaf by path."""
    kernels = kernel_axes.by_path(axes, leaves)
    layer_axes = {path: kernel_axes.layer_axes(kernel) for path, kernel in kernels.items()}
    return {
        path: tuple(axis for axis in range(leaf.ndim) if axis not in layer_axes[path])
        for path, leaf in leaves.items()
    }
