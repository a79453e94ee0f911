"""Criteria that compare initial and current weights (Zhou et al. 2019); two more are in `movement.py`.

The paper's `large_final` is `magnitude`, its `movement` is `weight_change`; `magnitude_increase` has the same
name here.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes, signals
from jaxprune.criteria.known import score_known
from jaxprune.types import Axes, Params, Scores

__all__ = [
    "large_final_same_sign",
    "large_init",
    "large_init_large_final",
    "small_final",
    "small_init",
    "small_init_small_final",
]

_INITIAL = signals.initial_params()


def small_final(params: Params, **_) -> Scores:
    """Scores a weight by how small it is: $-|w_t|$, the reverse of `magnitude`.

    Args:
      params: tree of arrays.

    Returns:
      A tree like `params` of float arrays, higher is better.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> small_final({"w": jnp.array([-2.0, 1.0])})
    {'w': Array([-2., -1.], dtype=float32)}
    """
    return jax.tree.map(lambda w: -jnp.abs(w), params)


@signals.needs(initial_params=_INITIAL)
def large_init(params: Params, *, initial_params: Params, **_) -> Scores:
    """Scores a weight by its initial size: $|w_0|$.

    Args:
      params: tree of arrays.
      initial_params: the weights $w_0$; in training the transform stores them.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> large_init({"w": jnp.ones(2)}, initial_params={"w": jnp.array([0.5, -3.0])})
    {'w': Array([0.5, 3. ], dtype=float32)}
    """
    return score_known(lambda w, w0: jnp.abs(w0), params, initial_params)


@signals.needs(initial_params=_INITIAL)
def small_init(params: Params, *, initial_params: Params, **_) -> Scores:
    """Scores a weight by how small it was initially: $-|w_0|$.

    Args:
      params: tree of arrays.
      initial_params: the weights $w_0$; in training the transform stores them.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> small_init({"w": jnp.ones(2)}, initial_params={"w": jnp.array([0.5, -3.0])})
    {'w': Array([-0.5, -3. ], dtype=float32)}
    """
    return score_known(lambda w, w0: -jnp.abs(w0), params, initial_params)


@signals.needs(initial_params=_INITIAL)
def large_init_large_final(
    params: Params, *, initial_params: Params, axes: kernel_axes.AxesTree | None = None, **_
) -> Scores:
    r"""Scores a weight by the lower of two ranks in its layer: that of $|w_0|$ and that of $|w_t|$.

    The paper's score is $\min(\alpha |w_t|, |w_0|)$ with an $\alpha$ for which the same share of the weights
    passes either threshold. Ranks need no $\alpha$: what is kept is the same, but for ties.

    Args:
      params: tree of arrays.
      initial_params: the weights $w_0$; in training the transform stores them.
      axes: tree of `jaxprune.Axes` beside `params`, which says what layers are; `None`: each leaf is one.

    Returns:
      A tree like `params` of float32 arrays, whole numbers from 0, higher is better; `None` where nothing
      is known of a leaf.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> start = {"w": jnp.array([0.1, -3.0, 2.0])}
    >>> large_init_large_final({"w": jnp.array([9.0, 8.0, 1.0])}, initial_params=start)
    {'w': Array([0., 1., 0.], dtype=float32)}
    """
    return _combined_ranks(jnp.minimum, params, initial_params, axes)


@signals.needs(initial_params=_INITIAL)
def small_init_small_final(
    params: Params, *, initial_params: Params, axes: kernel_axes.AxesTree | None = None, **_
) -> Scores:
    r"""Scores a weight by minus the higher of its two ranks in its layer, by $|w_0|$ and by $|w_t|$.

    The paper's score is $-\max(\alpha |w_t|, |w_0|)$; for ranks instead of $\alpha$ see
    `large_init_large_final`.

    Args:
      params: tree of arrays.
      initial_params: the weights $w_0$; in training the transform stores them.
      axes: tree of `jaxprune.Axes` beside `params`, which says what layers are; `None`: each leaf is one.

    Returns:
      A tree like `params` of float32 arrays, whole numbers up to 0, higher is better; `None` where nothing
      is known of a leaf.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> start = {"w": jnp.array([0.1, -3.0, 0.2])}
    >>> small_init_small_final({"w": jnp.array([9.0, 8.0, 1.0])}, initial_params=start)
    {'w': Array([-2., -2., -1.], dtype=float32)}
    """
    ranks = _combined_ranks(jnp.maximum, params, initial_params, axes)
    return jax.tree.map(jnp.negative, ranks)


@signals.needs(initial_params=_INITIAL)
def large_final_same_sign(params: Params, *, initial_params: Params, **_) -> Scores:
    r"""Scores a weight by its size where it kept its sign: $\max(0, w_t\,\mathrm{sign}(w_0))$.

    Masks by this criterion, on the initial weights, give a network that is much better than chance untrained.

    Args:
      params: tree of arrays.
      initial_params: the weights $w_0$; in training the transform stores them.

    Returns:
      A tree like `params` of float arrays, higher is better; zero where the sign has changed, `None` where
      nothing is known of a leaf.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> start = {"w": jnp.array([1.0, -3.0])}
    >>> large_final_same_sign({"w": jnp.array([-2.0, -4.0])}, initial_params=start)
    {'w': Array([0., 4.], dtype=float32)}
    """
    return score_known(lambda w, w0: jnp.maximum(w * jnp.sign(w0), 0), params, initial_params)


def _combined_ranks(combine, params: Params, initial_params: Params, axes) -> Scores:
    """Returns, per weight, what `combine` makes of the ranks in its layer of its two sizes."""

    def combine_leaf(weights: jax.Array, initial: Any, leaf_axes: Axes | None) -> jax.Array | None:
        if initial is None:
            return None
        layer_axes = kernel_axes.layer_axes(leaf_axes)
        return combine(_ranks(jnp.abs(weights), layer_axes), _ranks(jnp.abs(initial), layer_axes))

    return jax.tree.map(combine_leaf, params, initial_params, kernel_axes.tree_beside(axes, params))


def _ranks(scores: jax.Array, layer_axes: tuple[int, ...]) -> jax.Array:
    """Returns the place of each score in ascending order within its layer, float32, ties by position.

    NaN has no place, and stays NaN.
    """
    layers_first = jnp.moveaxis(scores, layer_axes, range(len(layer_axes)))
    layer_count = math.prod(layers_first.shape[: len(layer_axes)])
    rows = layers_first.reshape(layer_count, -1)
    places = jnp.argsort(jnp.argsort(rows, axis=1), axis=1)
    ranks = jnp.where(jnp.isnan(rows), jnp.nan, places.astype(jnp.float32))
    return jnp.moveaxis(ranks.reshape(layers_first.shape), range(len(layer_axes)), layer_axes)
