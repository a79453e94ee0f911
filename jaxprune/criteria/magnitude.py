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
