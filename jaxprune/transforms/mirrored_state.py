"""Which leaves of an optimizer state mirror a parameter: moments, traces, accumulators, copies."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.types import Params

__all__ = ["mirrors"]


def mirrors(params: Params, state: optax.OptState) -> list[int | None]:
    """Returns, per leaf of an optimizer state, the index of the parameter leaf that it mirrors.

    A leaf mirrors the parameter whose path is the longest suffix of its own, if the shapes are equal.
    Moments, traces, accumulators and copies are found in this way whatever the optimizer, and there is
    no list of state classes to maintain. Other leaves (counts, factored moments) mirror nothing: `None`.

    >>> params = {"w": jnp.ones((2, 3))}
    >>> mirrors(params, optax.adam(1e-3).init(params))  # count, mu, nu
    [None, 0, 0]
    """
    params_with_paths = jax.tree_util.tree_leaves_with_path(params)
    index_of_path = {path: index for index, (path, _) in enumerate(params_with_paths)}

    def mirrored_index(path: Any, leaf: Any) -> int | None:
        suffixes = (path[start:] for start in range(len(path) + 1))  # the longest first
        index = next((index_of_path[s] for s in suffixes if s in index_of_path), None)
        if index is None or jnp.shape(leaf) != jnp.shape(params_with_paths[index][1]):
            return None
        return index

    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [mirrored_index(path, leaf) for path, leaf in leaves]
