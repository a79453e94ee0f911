"""Criteria that read nothing but the weights."""

import jax
import jax.numpy as jnp

from jaxprune.types import Params, Scores


def magnitude(params: Params, **_) -> Scores:
    r"""Scores a weight by its size, $|w|$.

    References:
      Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks"
      (2015).

    >>> magnitude({"w": jnp.array([-2.0, 1.0])})
    {'w': Array([2., 1.], dtype=float32)}
    """
    return jax.tree.map(jnp.abs, params)


def l2(params: Params, **_) -> Scores:
    r"""Scores a weight by its square: what a pattern adds up to the squared $\ell_2$ norm of a unit.

    Of single weights the order is that of `magnitude`, whose sum over a unit is its $\ell_1$ norm.

    >>> l2({"w": jnp.array([-2.0, 1.0])})
    {'w': Array([4., 1.], dtype=float32)}
    """
    return jax.tree.map(jnp.square, params)


def normalized_magnitude(params: Params, **_) -> Scores:
    r"""Scores a weight by its size beside its leaf: $|w_i| / \sqrt{\sum_j w_j^2}$.

    For weights of different leaves that share one budget. `allocation.global_budget(normalize="l2")` does
    the same to any criterion, after the pattern.

    References:
      Molchanov, Tyree, Karras, Aila & Kautz, "Pruning Convolutional Neural Networks for Resource Efficient
      Inference" (2017), for criteria of feature maps.

    >>> normalized_magnitude({"a": jnp.array([-3.0, 4.0]), "b": jnp.array([0.06, 0.08])})
    {'a': Array([0.6, 0.8], dtype=float32), 'b': Array([0.6, 0.8], dtype=float32)}
    """

    def score(w: jax.Array) -> jax.Array:
        size = jnp.abs(w).astype(jnp.promote_types(w.dtype, jnp.float32))
        largest = jnp.max(size, initial=jnp.finfo(size.dtype).tiny)  # so that no square overflows
        return size / largest / jnp.sqrt(jnp.maximum(jnp.sum((size / largest) ** 2), 1.0))

    return jax.tree.map(score, params)


def fpgm(params: Params, **_) -> Scores:
    r"""Scores an output unit by its distances to the others of its leaf: $\sum_j \|w_i - w_j\|_2$.

    The units nearest to the geometric median of all are those that others can stand in for. The score is
    spread evenly over the unit's weights; prune with `patterns.channel()`, whose sum it is. Units lie along
    the last axis.

    References:
      He, Liu, Wang, Hu & Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
      Acceleration" (2019).

    >>> fpgm({"w": jnp.array([[0.0, 1.0, 5.0]])})
    {'w': Array([[6., 5., 9.]], dtype=float32)}
    """

    def score(w: jax.Array) -> jax.Array:
        if w.ndim < 2:
            return jnp.zeros_like(w, jnp.promote_types(w.dtype, jnp.float32))
        units = w.reshape(-1, w.shape[-1]).T.astype(jnp.promote_types(w.dtype, jnp.float32))
        apart = jax.lax.map(lambda one: jnp.sum(jnp.linalg.norm(units - one[None], axis=1)), units)
        apart = apart.reshape(*[1] * (w.ndim - 1), -1) / units.shape[1]
        return jnp.broadcast_to(apart, w.shape)

    return jax.tree.map(score, params)
