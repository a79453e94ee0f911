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

    def draw(
        i: int, leaf: jax.Array
    ) -> jax.Array:  # flat: draws of four axes compile slowly on CPU
        flat = jax.random.uniform(jax.random.fold_in(key, i), (jnp.size(leaf),))
        return flat.reshape(jnp.shape(leaf))

    return treedef.unflatten([draw(i, leaf) for i, leaf in enumerate(leaves)])
