"""Leaves of a tree by name and by order: what every filter, report and message names them by."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.types import Params

__all__ = ["beside", "keys_of", "layer_names", "paths", "some"]


def keys_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Plain names of a key path; the wrapper level of `nnx` variables is left out.

    >>> keys_of(jax.tree_util.tree_leaves_with_path({"a": [0, 1]})[1][0])
    ('a', '1')
    """
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def paths(tree: Params) -> list[str]:
    """Paths of the leaves, as filters and reports name them.

    >>> paths({"Dense_0": {"kernel": 1, "bias": 2}})
    ['Dense_0/bias', 'Dense_0/kernel']
    """
    return ["/".join(keys_of(path)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def beside(params: Params, tree: Any) -> list[Any]:
    """The entries of `tree` (masks, units: `None` included) at the leaves of `params`, in order."""
    return jax.tree.structure(params).flatten_up_to(tree)


def layer_names(path: str, layer_shape: Sequence[int]) -> list[str]:
    """Names of the layers of a leaf: its path, or where several are stacked, the path with their indices.

    >>> layer_names("head", ()), layer_names("layers/kernel", (2,))
    (['head'], ['layers/kernel[0]', 'layers/kernel[1]'])
    """
    indices = np.ndindex(*layer_shape)
    return [path + (f"[{', '.join(map(str, index))}]" if index else "") for index in indices]


def some(names: Sequence[str], shown: int = 6) -> str:
    """Names for a message, the first of them if there are many."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more
