"""The steps that updates share: the best units of each contest, those on a mask, and those that grow."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxprune import selection
from jaxprune.selection.mask_counts import count_true
from jaxprune.types import Keep, Units

__all__ = [
    "KeepPerLeaf",
    "MaskPerLeaf",
    "UnitsPerLeaf",
    "best_on_masks",
    "best_units",
    "count_beside",
    "count_per_contest",
    "grow",
]

# One element per prunable leaf.
MaskPerLeaf: TypeAlias = Sequence[jax.Array]
UnitsPerLeaf: TypeAlias = Sequence[Units]
KeepPerLeaf: TypeAlias = Sequence[Keep]


def best_units(units: Sequence[Units], keep: Sequence[Keep]) -> list[jax.Array]:
    """Returns masks of the `count` best units of each contest; equal scores are taken in index order."""
    masks = [leaf_keep.chosen for leaf_keep in keep]
    for index, (leaf_units, leaf_keep) in enumerate(zip(units, keep, strict=True)):
        if masks[index] is None and (leaf_units.axis is not None or leaf_units.layers):
            count = count_beside(leaf_keep, leaf_units)
            axes = leaf_units.contest_axes
            masks[index] = selection.top_along(leaf_units.scores, count, axes, leaf_units.among)
    # Leaves that are one contest each are searched together.
    remaining = [index for index, mask in enumerate(masks) if mask is None]
    remaining_masks = selection.top_each(
        [units[index].scores for index in remaining],
        [keep[index].count for index in remaining],
        [units[index].among for index in remaining],
    )
    for index, mask in zip(remaining, remaining_masks, strict=True):
        masks[index] = mask
    return masks  # type: ignore[return-value]


def count_beside(keep: Keep, leaf_units: Units) -> jax.Array | int:
    """Survivors in the shape that broadcasts against the units, given per layer, or per contest already."""
    is_per_contest = jnp.ndim(keep.count) == leaf_units.scores.ndim
    return keep.count if is_per_contest else leaf_units.beside(keep.count)


def best_on_masks(
    alive: MaskPerLeaf, units: UnitsPerLeaf, counts: Sequence[jax.Array | int]
) -> list[jax.Array]:
    """Masks of the best units of those alive in each layer, wherever they compete."""
    pairs = zip(alive, units, strict=True)
    alive_units = [
        Units(leaf_units.scores, layers=leaf_units.layers, among=mask) for mask, leaf_units in pairs
    ]
    return best_units(alive_units, [Keep(count) for count in counts])


def count_per_contest(mask: jax.Array, leaf_units: Units) -> jax.Array:
    """How many are marked in each contest; with axes of length one where there are many contests."""
    has_many_contests = leaf_units.axis is not None or bool(leaf_units.layers)
    return count_true(mask, leaf_units.contest_axes, keepdims=has_many_contests)


def grow(staying: MaskPerLeaf, grow_scores: UnitsPerLeaf, counts: Sequence[Any]) -> list[jax.Array]:
    """Masks of the units that stay, and of the best others by `grow_scores`, `counts` of them."""
    pairs = zip(staying, grow_scores, strict=True)
    off_masks = [
        Units(leaf_units.scores, leaf_units.axis, layers=leaf_units.layers, among=~mask)
        for mask, leaf_units in pairs
    ]
    grown = best_units(off_masks, [Keep(count) for count in counts])
    return [old | new for old, new in zip(staying, grown, strict=True)]
