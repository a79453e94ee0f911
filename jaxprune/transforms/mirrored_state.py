"""Which leaves of an optimizer state mirror a parameter: moments, traces, accumulators, copies."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.types import Params

__all__ = ["mirrors"]


def mirrors(params: Params, state: optax.OptState) -> list[int | None]:
    """Returns, per leaf of an optimizer state, the index of the parameter leaf that it mirrors.

    Trees like the parameters are found within the state: nodes with a leaf, or an `optax.MaskedNode`, at each
    of the parameters' paths. A leaf of such a tree mirrors the parameter at its path there if the shapes are
    equal. A leaf outside of such trees mirrors the parameter of its shape whose path its own ends with.
    Moments, traces, accumulators and copies are found in this way whatever the optimizer, and there is no
    list of state classes to maintain. Other leaves (counts, factored moments) mirror nothing: `None`.

    Raises:
      ValueError: if the path of a leaf outside of such trees ends with those of two parameters of its shape.

    >>> params = {"w": jnp.ones((2, 3))}
    >>> mirrors(params, optax.adam(1e-3).init(params))  # count, mu, nu
    [None, 0, 0]
    """
    parameters = jax.tree_util.tree_leaves_with_path(params)
    shapes = [jnp.shape(leaf) for _, leaf in parameters]
    index_of_path = {path: index for index, (path, _) in enumerate(parameters)}
    lengths = sorted({len(path) for path in index_of_path})
    entries = jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_masked_node)
    roots = _roots_of_trees(entries, index_of_path)

    def mirrored_index(path: Any, shape: tuple[int, ...]) -> int | None:
        """The index for one leaf; inside a tree like the parameters the innermost one counts."""
        starts = [len(path) - length for length in lengths if length <= len(path)]
        ends = [(path[:start], index_of_path.get(path[start:])) for start in starts]
        indices = [index for _, index in ends if index is not None]
        within = [index for root, index in ends if index is not None and root in roots]
        if within:
            return within[0] if shapes[within[0]] == shape else None
        candidates = [index for index in indices if shapes[index] == shape]
        if len(candidates) > 1:
            first, second, *_ = (_name(parameters[index][0]) for index in candidates)
            raise ValueError(
                f"the optimizer's state {_name(path)!r} may be that of the parameter {first!r} or of "
                f"{second!r}; rename one of the two."
            )
        return candidates[0] if candidates else None

    return [
        mirrored_index(path, jnp.shape(leaf)) for path, leaf in entries if not _is_masked_node(leaf)
    ]


def _is_masked_node(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _roots_of_trees(entries: list[Any], index_of_path: dict[Any, int]) -> set[Any]:
    """The paths of the nodes of a state that have a leaf, or a masked node, for each parameter."""
    # Parameters at or below each path: a masked node may stand for all of them.
    counts = collections.Counter(
        path[:end] for path in index_of_path for end in range(len(path) + 1)
    )
    lengths_of_leaves = {len(path) for path in index_of_path}
    lengths_of_nodes = range(max(lengths_of_leaves, default=0) + 1)
    covered: collections.Counter[Any] = collections.Counter()
    for path, leaf in entries:
        is_masked = _is_masked_node(leaf)
        for length in lengths_of_nodes if is_masked else lengths_of_leaves:
            start = len(path) - length
            if start >= 0 and (is_masked or path[start:] in index_of_path):
                covered[path[:start]] += counts[path[start:]]
    return {root for root, count in covered.items() if count == len(index_of_path)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
