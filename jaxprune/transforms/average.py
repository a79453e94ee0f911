"""A moving average of the parameters, which can be evaluated in place of the parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks
from jaxprune import masks as masks_lib
from jaxprune.arrays.precision import at_least_float32
from jaxprune.transforms.checking import check_inner, check_transform, check_update
from jaxprune.transforms.containers import from_inner
from jaxprune.transforms.reading import held_masks, nodes_of, states_of, united
from jaxprune.transforms.straight_through import StraightThroughState
from jaxprune.trees import beside
from jaxprune.trees.alike import check_alike, entries_beside
from jaxprune.types import Params

__all__ = ["AverageState", "average_of", "averaged"]


class AverageState(NamedTuple):
    """State of `averaged`.

    Attributes:
      count: number of updates done.
      average: average of the parameters after each update, float32 or wider, because at a decay near 1
        bfloat16 would round every step away. It starts from zero; `average_of` corrects this bias.
      decay: float32 scalar.
      inner: the wrapped optimizer's state.
    """

    count: Any
    average: Params
    decay: jax.Array
    inner: optax.OptState

    __getattr__ = from_inner


def averaged(
    inner: optax.GradientTransformation, decay: float
) -> optax.GradientTransformationExtraArgs:
    r"""Returns a transform that keeps an average of the parameters, $a_t = d\,a_{t-1} + (1-d)\,w_t$.

    The updates are those of `inner`. Read the average with `average_of`, which divides it by $1 - d^t$,
    because the average starts from zero. This transform must be the outermost one.

    Around `sparsify` and similar transforms the average is sparse too: the average of a weight is set to zero
    when the weight is removed. Around `straight_through` it is an average of dense weights. Around
    `lottery_ticket` it is refused, because parameters are rewound.

    Args:
      inner: any optimizer. If gates (`jaxprune.gates`) are trained, it includes their `project`.
      decay: $d$, the fraction of the old average that each update keeps, from 0 to below 1.

    Returns:
      A gradient transformation whose `update` needs `params`.

    Raises:
      ValueError: if the decay is out of its range; in `init`, if `inner` rewinds parameters.

    References:
      Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992); Louizos, Welling &
      Kingma (2018) test their gates at such an average, $d = 0.999$.

    >>> tx = averaged(optax.sgd(1.0), 0.5)
    >>> params = {"w": jnp.array([4.0])}
    >>> state = tx.init(params)
    >>> for _ in range(2):  # to 3, then 2
    ...     updates, state = tx.update({"w": jnp.array([1.0])}, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> [round(float(w), 4) for w in average_of(params, state)["w"]]  # (3 / 4 + 2 / 2) / (3 / 4)
    [2.3333]
    """
    check_transform("averaged", inner, decay=(decay, checks.NUMBER))
    inner = optax.with_extra_args_support(inner)
    if not 0 <= decay < 1:
        raise ValueError(f"averaged(decay={decay}): a number from 0 to below 1 is needed.")

    def init(params: Params) -> AverageState:
        checks.check("averaged", params=(params, checks.TREE))
        zeros = jax.tree.map(lambda w: jnp.zeros_like(w, _wide(w)), params)
        inner_state = inner.init(params)
        if nodes_of(inner_state, lambda node: getattr(type(node), "goes_back", False)):
            raise ValueError(
                "averaged: lottery_ticket sets the parameters back, and an average would mix what was before "
                "with what comes after; average the last level's training: averaged(fixed(inner, masks))."
            )
        return AverageState(jnp.zeros((), jnp.int32), zeros, jnp.float32(decay), inner_state)

    def update(
        grads: Params, state: AverageState, params: Params = None, **extra: Any
    ) -> tuple[Params, AverageState]:
        check_update("averaged", AverageState, grads, state, params)
        check_inner("averaged", inner, state.inner, params)
        remedy = "start with init(params) again"
        check_alike("averaged", "averages", params, state.average, remedy)
        updates, inner_state = inner.update(grads, state.inner, params, **extra)
        new_params = optax.apply_updates(params, updates)
        d = state.decay

        def mix(average: jax.Array, weights: jax.Array) -> jax.Array:
            if not _is_inexact(weights):
                return weights
            return (d * average + (1 - d) * weights).astype(average.dtype)

        average = _masked_average(jax.tree.map(mix, state.average, new_params), inner_state)
        count: Any = optax.safe_increment(state.count)
        return updates, AverageState(count, average, state.decay, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore


def average_of(params: Params, opt_state: Any) -> Params:
    """Returns the average of the parameters that `averaged` keeps.

    If the state has no `averaged`, or before its first update, it returns `params`. If `jax.vmap` trains
    several seeds, the averages have the same leading axis as the parameters.

    Args:
      params: tree of arrays.
      opt_state: state of the optimizer, chains and wrappers around it included.

    Returns:
      A tree like `params`, with the same dtypes; integer leaves are those of `params`.

    Raises:
      ValueError: if the average is of parameters with other names or shapes.

    >>> tx = averaged(optax.sgd(1.0), 0.5)
    >>> params = {"w": jnp.array([4.0])}
    >>> average_of(params, tx.init(params))  # before the first update
    {'w': Array([4.], dtype=float32)}
    """
    states = states_of("average_of", AverageState, params, opt_state)
    if not states:
        return params
    leaves, treedef = jax.tree.flatten(params)
    means_of_states = [treedef.unflatten(_unbiased_means(params, state)) for state in states]
    means = united("average_of", "averages", means_of_states)
    rows = zip(leaves, beside(params, means), strict=True)
    return treedef.unflatten(leaf if mean is None else mean for leaf, mean in rows)


def _unbiased_means(params: Params, state: AverageState) -> list[jax.Array | None]:
    """The average at each parameter, no mixture with the start from zero; `None` where the state has none."""

    def unbiased_mean(weights: jax.Array, average: jax.Array | None) -> jax.Array | None:
        if average is None:
            return None
        # With seeds side by side there are several counts, along the first axes of the weights.
        added_axes = tuple(range(state.count.ndim, average.ndim))
        count = jnp.expand_dims(state.count, added_axes)
        decay = jnp.expand_dims(state.decay, added_axes)
        correction = -jnp.expm1(jnp.maximum(count, 1) * jnp.log(decay))  # 1 - d^t
        mean = (average / correction).astype(weights.dtype) if _is_inexact(weights) else average
        return jnp.where(count > 0, mean, weights)

    def refusal(differ: str) -> str:
        return f"average_of: the average is of other parameters ({differ}); give those that were trained."

    averages = entries_beside(params, state.average, refusal)
    remedy = (
        "give those that were trained; where jax.vmap trained several side by side, all of them"
    )
    check_alike("average_of", "averages", params, state.average, remedy)
    rows = zip(jax.tree.leaves(params), averages, strict=True)
    return [unbiased_mean(weights, average) for weights, average in rows]


def _masked_average(average: Params, inner_state: Any) -> Params:
    """The average with zeros off the masks in force, if the weights that are averaged are zero there."""
    held = held_masks(inner_state, but=(StraightThroughState,))
    return masks_lib.apply(average, united("averaged", "sparse states", held)) if held else average


def _is_inexact(w: jax.Array) -> bool:
    return jnp.issubdtype(jnp.result_type(w), jnp.inexact)


def _wide(w: jax.Array) -> Any:
    return at_least_float32(jnp.result_type(w)) if _is_inexact(w) else None
