"""The criterion that reads nothing: the control of every experiment."""

import jax

from jaxprune.types import Params, Scores


def random(params: Params, *, key: jax.Array, **_) -> Scores:
    """Scores weights by chance, uniform in [0, 1); each leaf has a stream of its own.

    >>> random({"w": jax.numpy.ones((2, 2))}, key=jax.random.key(0))["w"].shape
    (2, 2)
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
    drawn = [jax.random.uniform(k, jax.numpy.shape(p)) for k, p in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)
