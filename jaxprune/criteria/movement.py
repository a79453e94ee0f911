"""Criteria that read how a weight has moved in training, from signals that the transform accumulates."""

import jax.numpy as jnp

from jaxprune import signals
from jaxprune.arrays.precision import widen
from jaxprune.criteria.known import score_known
from jaxprune.types import Params, Scores

_INITIAL = signals.initial_params()


@signals.needs(movement_sum=signals.running_sum(lambda w, g: -w * g))
def movement(params: Params, *, movement_sum: Params, **_) -> Scores:
    r"""Scores a weight by how far training has pushed it from zero: $-\sum_t w_t g_t$.

    Under `straight_through` this is the paper's movement pruning, whose scores learn at a constant rate.
    With `sparsify` a weight off the mask is zero and its score does not change.

    Args:
      params: tree of arrays.
      movement_sum: the sums of $-w_t g_t$ over the updates; the transform accumulates them.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Sanh, Wolf & Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (2020).

    >>> movement({"w": jnp.ones(2)}, movement_sum={"w": jnp.array([0.5, -1.0])})
    {'w': Array([ 0.5, -1. ], dtype=float32)}
    """
    return score_known(lambda w, s: s, params, movement_sum)


@signals.needs(initial_params=_INITIAL)
def weight_change(params: Params, *, initial_params: Params, **_) -> Scores:
    """Scores a weight by its distance from where it began: $|w_t - w_0|$.

    Args:
      params: tree of arrays.
      initial_params: the weights $w_0$; in training the transform stores them.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask"
      (2019), mask criterion "movement".

    >>> weight_change({"w": jnp.array([2.0, -3.0])}, initial_params={"w": jnp.array([1.0, -3.0])})
    {'w': Array([1., 0.], dtype=float32)}
    """
    return score_known(lambda w, w0: jnp.abs(widen(w) - widen(w0)), params, initial_params)


@signals.needs(initial_params=_INITIAL)
def magnitude_increase(params: Params, *, initial_params: Params, **_) -> Scores:
    """Scores a weight by how much it has grown in size: $|w_t| - |w_0|$.

    Args:
      params: tree of arrays.
      initial_params: the weights $w_0$; in training the transform stores them.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask"
      (2019), mask criterion "magnitude increase".

    >>> magnitude_increase({"w": jnp.array([2.0, -3.0])}, initial_params={"w": jnp.array([1.0, -4.0])})
    {'w': Array([ 1., -1.], dtype=float32)}
    """
    return score_known(lambda w, w0: jnp.abs(widen(w)) - jnp.abs(widen(w0)), params, initial_params)
