"""Searches on one device, in place: leaf after leaf in each pass, and nothing is copied but a small sample.

Scores are recipes (`selection.deferred`): a pass computes them of the arrays they come from. Each leaf is
a call of a function that leaves of the same shape share, so that a program with hundreds of leaves has one
kernel for each shape; numbers that differ between them (positions, the index of the contest) are arguments.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxprune.selection.counting import (
    EVERYWHERE,
    PROBES,
    Cut,
    find_cut,
    masks_of_cuts,
    sample_positions,
    separate_ties,
)
from jaxprune.selection.deferred import Computed, Recipe, recipe_of
from jaxprune.selection.leaf_loops import Leaf, fold_leaves
from jaxprune.selection.mask_counts import count_marked
from jaxprune.selection.ranks import order_key, to_rank, zero_bits
from jaxprune.selection.shared_kernels import compiled_once, stays_called, unseen

__all__ = ["masks_in_place"]

_SAMPLE = (1024, 65536)  # fewest and most scores in the sample of a contest
_SCORES_PER_SAMPLE = 512  # in between, one score in so many is sampled
_FEW_LEAVES = 16  # up to which a pass is made faster by two kernels for each shape
_MOST_ROWS = 1024  # of a leaf as it is counted
_FIRST_INDEX = np.uint32(0)


class _Kind(NamedTuple):
    """What equal leaves have in common.

    Attributes:
      recipe: makes the scores of a leaf from its arrays.
      shape: of the scores.
      stride: distance of those in the sample.
    """

    recipe: Recipe
    shape: tuple[int, ...]
    stride: int


def masks_in_place(scores: Sequence[Any], k: Array, together: bool) -> list[Computed]:
    """Marks the k largest of all leaves together, or of each leaf.

    Args:
      scores: arrays, or `Computed` values; NaN ranks below everything.
      k: int32 scalar; of each leaf one, if they are contests of their own.
      together: whether all leaves are one contest.

    Returns:
      Masks, to be computed where they are read.
    """
    sizes = [math.prod(leaf_scores.shape) for leaf_scores in scores]
    contest_count = 1 if together else len(sizes)
    total = np.array([sum(sizes)] if together else sizes, np.int32)
    contest_sizes = [int(total[0])] * len(sizes) if together else sizes
    strides = [
        _stride(leaf_scores.shape, contest_size)
        for leaf_scores, contest_size in zip(scores, contest_sizes, strict=True)
    ]
    sample_sizes = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    if together:
        rows = [0] * len(sizes)
        starts = list(itertools.accumulate(sizes, initial=0))[:-1]
        columns = list(itertools.accumulate(sample_sizes, initial=0))[:-1]
    else:
        rows = list(range(len(sizes)))
        starts = columns = [0] * len(sizes)
    leaves = []
    for leaf_scores, stride, *place in zip(scores, strides, rows, starts, columns, strict=True):
        recipe, arrays = recipe_of([leaf_scores])
        kind = _Kind(recipe, tuple(leaf_scores.shape), stride)
        leaves.append(Leaf(kind, tuple(place), tuple(arrays)))
    drop = min(zero_bits(leaf_scores.dtype) for leaf_scores in scores)
    zero = jnp.int32(0)
    if jax.sharding.get_abstract_mesh().manual_axes:
        # Inside shard_map, what the search carries must be seen to vary over devices as the scores do.
        zero += sum(
            jnp.sum(array.ravel()[:0], dtype=jnp.int32) for leaf in leaves for array in leaf.arrays
        )
    k = jnp.reshape(k, (contest_count,)) + zero

    def first_thresholds(k: Array) -> Array:
        size = np.array([sum(sample_sizes)] if together else sample_sizes, np.int32)
        width = int(size.max())
        lowest_rank = lax.convert_element_type(zero, jnp.uint32)
        sample = jnp.full((contest_count, width), lowest_rank)

        def add_to_sample(sample: Array, place: Any, arrays: Any, kind: _Kind) -> Array:
            row, _, column = place
            return _sample_into(
                sample, row, column, arrays, recipe=kind.recipe, stride=kind.stride, drop=drop
            )

        sample = fold_leaves(add_to_sample, sample, leaves)
        ordered = lax.sort(sample, dimension=1)  # rank 0, where nothing is sampled, comes first
        columns = width - sample_positions(size, total, k)
        return separate_ties(ordered[np.arange(contest_count)[None], columns])

    def count_kept(cuts: Cut) -> Array:
        def add_counts(counts: Array, place: Any, arrays: Any, kind: _Kind) -> Array:
            row, start, _ = place
            return _count_into(
                counts,
                cuts,
                row,
                start,
                arrays,
                recipe=kind.recipe,
                shape=kind.shape,
                fast=len(leaves) <= _FEW_LEAVES,
            )

        return fold_leaves(add_counts, cuts.key & 0, leaves)

    cut = find_cut(count_kept, k, total, first_thresholds, drop)
    return [
        Computed(_mask_of_leaf, (leaf_scores, *cut, row, start), leaf_scores.shape, np.dtype(bool))
        for leaf_scores, row, start in zip(scores, unseen(rows), unseen(starts), strict=True)
    ]


def _stride(shape: tuple[int, ...], contest_size: int) -> int:
    """The distance of sampled scores in a leaf: about as many as are wanted, of all columns."""
    sample_size = int(np.clip(contest_size // _SCORES_PER_SAMPLE, *_SAMPLE))
    stride = -(-contest_size // sample_size)
    while shape and shape[-1] > 1 and math.gcd(stride, shape[-1]) > 1:
        stride += 1
    return stride


@compiled_once(static=["recipe", "stride", "drop"])
def _sample_into(
    sample: Array, row: Array, column: Array, arrays: Any, *, recipe: Recipe, stride: int, drop: int
) -> Array:
    """The sample of all leaves, with some ranks of one leaf in it."""
    [scores] = recipe(*arrays)
    ranks = to_rank(order_key(scores.reshape(-1)[::stride]), drop)
    return lax.dynamic_update_slice(sample, ranks[None], (row, column))


@compiled_once(static=["recipe", "shape", "fast"])
def _count_into(
    counts: Array,
    cuts: Cut,
    row: Array,
    start: Array,
    arrays: Any,
    *,
    recipe: Recipe,
    shape: tuple[int, ...],
    fast: bool,
) -> Array:
    """The counts of all contests, int32[probes, contests], with those of one leaf added."""
    columns = [
        lax.dynamic_slice(values, (_FIRST_INDEX, row), (PROBES, 1)) for values in (counts, *cuts)
    ]
    before, keys, last_positions = (lax.squeeze(column, [1]) for column in columns)
    if not stays_called():  # written out, scores would be moved out of the loop, and stored
        arrays, keys, last_positions = lax.optimization_barrier((arrays, keys, last_positions))
    row_count = math.gcd(math.prod(shape), _MOST_ROWS)  # XLA:CPU shares rows among cores

    def count_masks(masks_of: Callable[[Array], list[Array]]) -> Array:
        [scores] = recipe(*arrays)
        masks = masks_of(scores.reshape(row_count, -1))
        return jnp.stack(count_marked(count_marked(masks, (1,)), (0,)))

    def count_by_key() -> Array:
        return count_masks(lambda scores: [order_key(scores) >= keys[i] for i in range(PROBES)])

    def count_by_position() -> Array:
        steps = (math.prod(shape) // row_count, 1)
        place = (lax.convert_element_type(start, jnp.int32), *steps)
        leaf_cuts = [Cut(keys[i], last_positions[i]) for i in range(PROBES)]
        return count_masks(lambda scores: masks_of_cuts(scores, place, leaf_cuts))

    # By position costs half a pass more, and holds for both; by key is one more kernel to compile.
    if fast:
        added = lax.cond(jnp.all(last_positions == EVERYWHERE), count_by_key, count_by_position)
    else:
        added = count_by_position()
    return lax.dynamic_update_slice(counts, (before + added)[:, None], (_FIRST_INDEX, row))


def _mask_of_leaf(
    scores: Array, keys: Array, last_positions: Array, row: Array, start: Array
) -> Array:
    """The mask of a leaf, from the cuts of all contests."""

    def of_contest(values: Array) -> Array:
        return lax.squeeze(lax.dynamic_slice(values, (row,), (1,)), [0])

    steps = [math.prod(scores.shape[axis + 1 :]) for axis in range(scores.ndim)]
    place = (lax.convert_element_type(start, jnp.int32), *steps)
    return masks_of_cuts(scores, place, [Cut(of_contest(keys), of_contest(last_positions))])[0]
