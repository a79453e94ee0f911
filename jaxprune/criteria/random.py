"""The criterion that reads nothing: the control of every experiment."""

import jax
import jax.numpy as jnp

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

    def draw_scores(index: int, leaf: jax.Array) -> jax.Array:
        # Flat, as draws of four axes compile slowly on CPU.
        scores = jax.random.uniform(jax.random.fold_in(key, index), (jnp.size(leaf),))
        return scores.reshape(jnp.shape(leaf))

    return treedef.unflatten([draw_scores(index, leaf) for index, leaf in enumerate(leaves)])
