"""The best units of a whole tree, where each layer keeps as many of its own as its floor says."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import selection
from jaxprune.allocation.counts import Layers, share_among_contests
from jaxprune.selection.counts_by_leaf import count_by_leaf
from jaxprune.types import Keep, Units

__all__ = ["best_of_tree", "is_units", "keep_chosen"]


def keep_chosen(units: Sequence[Units], chosen: Sequence[jax.Array]) -> list[Keep]:
    """Returns what is kept of leaves in which these units have been chosen.

    Where each layer is one contest, the choice itself; where it has many, an equal count for each of them.

    Args:
      units: of each leaf.
      chosen: of each leaf, bool per unit.
    """
    layers = Layers(units)
    counts = layers.split(layers.marked(chosen))
    return [
        Keep(count, leaf_chosen)
        if leaf_units.axis is None
        else Keep(share_among_contests(count, leaf_units.contests))
        for leaf_units, leaf_chosen, count in zip(units, chosen, counts, strict=True)
    ]


def is_units(node: Any) -> bool:
    """Whether a node of a tree is the units of a leaf."""
    return isinstance(node, Units)


def best_of_tree(
    scores: Sequence[jax.Array],
    units: Sequence[Units],
    count: jax.Array | int,
    floors: Sequence[jax.Array],
    among: Sequence[jax.Array | None] | None = None,
) -> list[jax.Array]:
    """Returns bool arrays that mark the best units of all leaves, and of each layer at least its floor.

    Args:
      scores: of each leaf, as they compare between leaves.
      units: of each leaf; they say which axes index layers.
      count: number of units to mark in all; the floors, if they are more together.
      floors: of each leaf, number of units to mark of each layer at least.
      among: of each leaf, which units may be marked; `None`: all.

    >>> scores = [jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0, 4.0])]
    >>> leaves = [Units(x) for x in scores]
    >>> [m.tolist() for m in best_of_tree(scores, leaves, 2, [jnp.int32(1), jnp.int32(1)])]
    [[False, True], [False, True, False]]
    """
    allowed = list(among or [None] * len(scores))
    protected = _best_of_layers(scores, units, floors, allowed)
    others = [
        ~leaf_protected if leaf_allowed is None else leaf_allowed & ~leaf_protected
        for leaf_protected, leaf_allowed in zip(protected, allowed, strict=True)
    ]
    protected_count = jnp.sum(count_by_leaf(protected))
    best_others = selection.top(scores, jnp.maximum(count - protected_count, 0), others)
    return [
        leaf_protected | leaf_best
        for leaf_protected, leaf_best in zip(protected, best_others, strict=True)
    ]


def _best_of_layers(
    scores: Sequence[jax.Array],
    units: Sequence[Units],
    counts: Sequence[jax.Array],
    among: Sequence[jax.Array | None],
) -> list[jax.Array]:
    """Returns bool arrays that mark the best units of each layer, whatever contests it is divided into."""
    stacked_indices = [i for i, leaf_units in enumerate(units) if leaf_units.layers]
    single_indices = [i for i, leaf_units in enumerate(units) if not leaf_units.layers]
    best_of_single = selection.top_each(
        [scores[i] for i in single_indices],
        [counts[i] for i in single_indices],
        [among[i] for i in single_indices],
    )
    mask_by_index = dict(zip(single_indices, best_of_single, strict=True))
    for i in stacked_indices:
        unit_axes = [axis for axis in range(scores[i].ndim) if axis not in units[i].layers]
        mask_by_index[i] = selection.top_along(
            scores[i], units[i].beside(counts[i]), unit_axes, among[i]
        )
    return [mask_by_index[i] for i in range(len(units))]
