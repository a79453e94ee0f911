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
