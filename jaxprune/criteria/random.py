"""The criterion that reads nothing: the control of every experiment."""

import jax
import jax.numpy as jnp

from jaxprune.selection.draws import uniform_by_leaf
from jaxprune.types import Params, Scores


def random(params: Params, *, key: jax.Array, **_) -> Scores:
    """Scores weights by chance, uniform in [0, 1); each leaf has a stream of its own.

    Args:
      params: tree of arrays.
      key: PRNG key.

    Returns:
      A tree like `params` of float arrays, higher is better.

    >>> random({"w": jnp.ones((2, 2))}, key=jax.random.key(0))["w"].shape
    (2, 2)
    """
    leaves, treedef = jax.tree.flatten(params)
    # Flat, as draws of four axes compile slowly on CPU.
    draws = uniform_by_leaf(key, [jnp.size(leaf) for leaf in leaves])
    return treedef.unflatten(
        [scores.reshape(jnp.shape(leaf)) for scores, leaf in zip(draws, leaves, strict=True)]
    )
