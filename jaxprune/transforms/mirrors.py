"""Which leaves of an optimizer state mirror a parameter: moments, traces, accumulators, copies."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.types import Params

__all__ = ["mirrors"]


def mirrors(params: Params, state: optax.OptState) -> list[int | None]:
    """Returns, per leaf of an optimizer state, the number of the parameter that it mirrors.

    A leaf mirrors the parameter whose path is the longest suffix of its own, if the shapes are equal.
    Moments, traces, accumulators and copies are found in this way whatever the optimizer, and there is
    no list of state classes to maintain. Other leaves (counts, factored moments) mirror nothing: `None`.

    >>> params = {"w": jnp.ones((2, 3))}
    >>> mirrors(params, optax.adam(1e-3).init(params))  # count, mu, nu
    [None, 0, 0]
    """
    named = jax.tree_util.tree_leaves_with_path(params)
    numbers = {path: i for i, (path, _) in enumerate(named)}

    def mirrored(path: Any, leaf: Any) -> int | None:
        suffixes = (path[i:] for i in range(len(path) + 1))
        number = next((numbers[s] for s in suffixes if s in numbers), None)
        same = number is not None and jnp.shape(leaf) == jnp.shape(named[number][1])
        return number if same else None

    return [mirrored(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]
