"""What all gates share: trainable extras beside the parameters, one protocol for every loop.

A gate turns `params` into `theta = Gated(params, gates)`, one pytree for one optax optimizer. The loss is
taken at `gate.sample(theta, key)`, a tree like `params`; `gate.finalize(theta)` is the network that is left.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, kernel_axes
from jaxprune import masks as masks_lib
from jaxprune.alike import join_faults
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.penalties import scheduled
from jaxprune.trees import differences
from jaxprune.types import Axes, Masks, Params, Pattern, Step

__all__ = ["Gate", "Gated", "Rule", "Strength", "at_step", "check_strength", "per_leaf", "units_of"]

Leaves = dict[str, jax.Array]  # by path
Strength = float | Callable[[Step], Any]
_T = TypeVar("_T")


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

    Every function but `init` and `project` takes `step`, the number of updates done, where something is
    scheduled: a temperature, a sparsity, the strength of a penalty. Without it `finalize` gives the network
    at the end of its schedule.

    Attributes:
      init: (params, key) -> theta.
      sample: (theta, key, step) -> parameters of one forward pass, differentiable in theta.
      penalty: (theta, step) -> what to add to the loss, a float32 scalar.
      expected_l0: (theta) -> how many of the gated weights are expected not to be zero, a float32 scalar.
      finalize: (theta, step) -> (params, masks) of the sparse network, without noise.
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
    """Makes a `Gate` for any tree out of a `Rule` for its gated leaves.

    Args:
      rule: see `Rule`.
      prunable: which leaves are gated (see `jaxprune.masks.make`).
      axes: what the program does with the leaves (`jaxprune.axes`), for the default filter. A rule for which
        inputs, outputs or layers count finds them by `jaxprune.kernel_axes.by_path(axes, leaves)`.
    """

    checks.check("gate_of", rule=(rule, _RULE))
    shapes_known: dict[Any, Any] = {}

    def gated(theta: Gated) -> Leaves:
        """The gated leaves; refuses gates that belong to another tree, or another gate."""
        leaves = _gated(theta)
        question = tuple((n, jnp.shape(w), jnp.result_type(w)) for n, w in leaves.items())
        if question not in shapes_known:
            shapes_known[question] = jax.eval_shape(rule.init, leaves, jax.random.key(0))
        _check_shapes(theta.gates, shapes_known[question])
        return leaves

    def init(params: Params, key: jax.Array) -> Gated:
        checks.check("gate.init", params=(params, checks.TREE), key=(key, checks.KEY))
        kernel_axes.of_leaves(axes, params)  # refuses axes that do not fit the tree
        masks = masks_lib.beside(params, masks_lib.make(params, prunable, axes=axes))
        pairs = zip(masks_lib.paths(params), masks, strict=True)
        chosen = {name for name, mask in pairs if mask is not None}
        leaves = {name: leaf for name, leaf in _named(params).items() if name in chosen}
        return Gated(params, rule.init(leaves, key))

    def sample(theta: Gated, key: jax.Array | None = None, step: Step | None = None) -> Params:
        checks.check("gate.sample", theta=(theta, GATED), key=(key, checks.optional(checks.KEY)))
        params = jax.lax.stop_gradient(theta.params) if rule.frozen else theta.params
        theta = theta._replace(params=params)
        return _with(params, rule.sample(gated(theta), theta.gates, key, step))

    def penalty(theta: Gated, step: Step | None = None) -> jax.Array:
        checks.check("gate.penalty", theta=(theta, GATED))
        return jnp.asarray(rule.cost(gated(theta), theta.gates, step), jnp.float32)

    def expected_l0(theta: Gated) -> jax.Array:
        checks.check("gate.expected_l0", theta=(theta, GATED))
        return jnp.asarray(rule.alive(gated(theta), theta.gates), jnp.float32)

    def finalize(theta: Gated, step: Step | None = None) -> tuple[Params, Masks]:
        checks.check("gate.finalize", theta=(theta, GATED))
        leaves, kept = rule.final(gated(theta), theta.gates, step)
        treedef = jax.tree.structure(theta.params)
        masks = treedef.unflatten(kept.get(name) for name in masks_lib.paths(theta.params))
        return masks_lib.apply(_with(theta.params, leaves), masks), masks

    def moments(theta: Gated, step: Step | None = None) -> tuple[Leaves, Leaves]:
        checks.check("gate.moments", theta=(theta, GATED))
        assert rule.moments is not None
        return rule.moments(gated(theta), theta.gates, step)

    return Gate(
        init,
        sample,
        penalty,
        expected_l0,
        finalize,
        lambda: _project(rule),
        moments if rule.moments else None,
    )


def _named(params: Params) -> Leaves:
    return dict(zip(masks_lib.paths(params), jax.tree.leaves(params), strict=True))


def _gated(theta: Gated) -> Leaves:
    """The gated leaves, in the order of the tree."""
    named = _named(theta.params)
    lost = [name for name in theta.gates if name not in named]
    if lost:
        raise ValueError(
            f"gates: theta.gates has {lost[0]!r}, but the leaves of theta.params are {', '.join(named)}; "
            "after a change of the tree begin with gate.init(params, key) again."
        )
    return {name: leaf for name, leaf in named.items() if name in theta.gates}


def _check_shapes(gates: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses the gates of another gate, by their shapes."""
    wrong = [
        f"{name!r} has gates of the shape {jnp.shape(gate)}, this gate {wanted[name].shape}"
        for name, gate in gates.items()
        if jnp.shape(gate) != wanted[name].shape
    ]
    if wrong:
        raise ValueError(
            f"gates: {join_faults(wrong)}; begin with gate.init(params, key) of this gate."
        )


def _with(params: Params, leaves: Leaves) -> Params:
    """`params` with these leaves in place of its own, in its own dtypes."""
    pairs = _named(params).items()
    return jax.tree.structure(params).unflatten(
        jnp.asarray(leaves[name], old.dtype) if name in leaves else old for name, old in pairs
    )


def _project(rule: Rule) -> optax.GradientTransformationExtraArgs:
    is_gated = lambda node: isinstance(node, Gated)

    def held(update: Any, node: Any) -> Any:
        if not is_gated(node):
            return update
        params, gates = update
        if rule.frozen:
            params = jax.tree.map(jnp.zeros_like, params)
        if rule.bounds is not None:
            low, high = rule.bounds
            gates = jax.tree.map(lambda u, g: jnp.clip(g + u, low, high) - g, gates, node.gates)
        return Gated(params, gates)

    def update(
        updates: Any, state: optax.EmptyState, params: Any = None, **_: Any
    ) -> tuple[Any, optax.EmptyState]:
        if params is None:
            raise ValueError("gate.project: update(updates, state, params) needs the parameters.")
        remedy = "take the gradients with respect to theta, the parameters and gates of gate.init"
        if jax.tree.structure(updates) != jax.tree.structure(params):
            differ = differences(masks_lib.paths(updates), masks_lib.paths(params))
            raise ValueError(
                f"gate.project: the updates are another tree than the parameters ({differ}); {remedy}."
            )
        return jax.tree.map(held, updates, params, is_leaf=is_gated), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)  # type: ignore


def check_each(who: str, kind: checks.Kind, **arguments: Any) -> None:
    """Raises `TypeError` unless each argument, or each value of one that is a mapping, is of the kind."""
    for name, value in arguments.items():
        each = value.items() if isinstance(value, Mapping) else ()
        named = {f"{name}[{key!r}]": (item, kind) for key, item in each}
        checks.check(who, **(named or {name: (value, kind)}))


def check_strength(who: str, strength: Any) -> None:
    """Raises `ValueError` unless a strength, or each of a mapping, is a schedule or a number from 0 up."""
    for value in strength.values() if isinstance(strength, Mapping) else (strength,):
        scheduled(who, strength=value)


def at_step(value: Strength, step: Step | None, who: str) -> Any:
    """A number, or what a schedule says at `step`."""
    if not callable(value):
        return value
    if step is None:
        raise ValueError(f"{who}: its schedule needs step=, the number of updates done.")
    return value(step)


def per_leaf(value: _T | Mapping[str, _T], leaves: Leaves, what: str) -> dict[str, _T]:
    """One value for each leaf: the same for all, or by regular expressions searched in its path.

    >>> per_leaf({"fc1": 0.2, "fc": 0.5}, {"fc1/kernel": None, "fc2/kernel": None}, "dropout_rate")
    {'fc1/kernel': 0.2, 'fc2/kernel': 0.5}
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(leaves, value)
    for expression in value:
        checks.expression(what, expression)
    matching = {name: [v for k, v in value.items() if re.search(k, name)] for name in leaves}
    idle = [k for k in value if not any(re.search(k, name) for name in leaves)]
    missing = [name for name, found in matching.items() if not found]
    if idle or missing:
        found = f"{idle[0]!r} matches no leaf" if idle else f"nothing matches {missing[0]!r}"
        raise ValueError(
            f"{what}: {found}; its keys are regular expressions, searched in the paths of the gated leaves, "
            f"of which the first that matches holds: {', '.join(leaves)}."
        )
    return {name: found[0] for name, found in matching.items()}


def units_of(
    leaves: Leaves, patterns: Mapping[str, Pattern], kernels: Mapping[str, Axes | None]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the units that a pattern makes of each leaf, checked."""
    shapes = {}
    for name, w in leaves.items():
        own, kernel = patterns[name], kernels[name]
        fault = own.check(w.shape, kernel)
        if fault:
            raise ValueError(fault.format(leaf=repr(name)) + ".")
        units = jax.eval_shape(lambda w, own=own, kernel=kernel: own.to_groups(w, kernel), w)
        shapes[name] = units.shape
    return shapes


def layers_beside(leaves: Leaves, axes: AxesTree | None) -> dict[str, tuple[int, ...]]:
    """The shape of one number per layer of each leaf, that broadcasts against it; `()` if it is one layer.

    >>> from jaxprune.types import Axes
    >>> layers_beside({"layers": jnp.ones((5, 2, 3))}, {"layers": Axes(1, 2, batch_axis=0)})
    {'layers': (5, 1, 1)}
    """
    along = over_layers(leaves, axes)
    return {
        name: tuple(1 if i in along[name] else n for i, n in enumerate(w.shape))
        if len(along[name]) < w.ndim
        else ()
        for name, w in leaves.items()
    }


def over_layers(leaves: Leaves, axes: AxesTree | None) -> dict[str, tuple[int, ...]]:
    """The axes along which the weights of one layer of each leaf lie."""
    kernels = kernel_axes.by_path(axes, leaves)
    layers = {name: kernel_axes.layer_axes(kernel) for name, kernel in kernels.items()}
    return {n: tuple(i for i in range(w.ndim) if i not in layers[n]) for n, w in leaves.items()}
