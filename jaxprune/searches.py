"""Searches on one device, in place: leaf after leaf in each pass, and nothing is copied but a small sample.

Scores are recipes (`jaxprune.deferred`): a pass computes them of the arrays that they come from. Each leaf is
a call of a function that leaves of the same shape share, so that a program with hundreds of leaves has one
kernel for each shape; numbers that differ between them (positions, which contest) are arguments.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxprune.counting import (
    EVERYWHERE,
    PROBES,
    Cut,
    apart,
    counts_of,
    find_cut,
    kept,
    sampled_ranks,
)
from jaxprune.deferred import Computed, Recipe, recipe_of
from jaxprune.ranks import order_key, to_rank, zero_bits
from jaxprune.shared_kernels import compiled_once, stays_called

__all__ = ["masks_in_place"]

_SAMPLE = (1024, 65536)  # fewest and most scores in the sample of a contest
_THIN = 512  # in between, one score in so many
_FEW = 16  # leaves, up to which a pass is made faster by two kernels for each shape
_ROWS = 1024  # at most, of a leaf as it is counted
_FIRST = np.uint32(0)


class _Leaf(NamedTuple):
    """Scores of one leaf: how they are computed, of which arrays, and where they stand."""

    recipe: Recipe
    arrays: tuple[Any, ...]
    shape: tuple[int, ...]
    row: Any  # of its contest
    start: Any  # position of its first score
    column: Any  # of its part of the sample


def masks_in_place(scores: Sequence[Any], k: Array, together: bool) -> list[Computed]:
    """Marks the k largest of all leaves together, or of each leaf.

    Args:
      scores: arrays, or `Computed` values; NaN ranks below everything.
      k: int32 scalar; of each leaf one, if they are contests of their own.
      together: whether all leaves are one contest.

    Returns:
      Masks, to be computed where they are read.
    """
    sizes = [math.prod(x.shape) for x in scores]
    contests = 1 if together else len(sizes)
    total = np.array([sum(sizes)] if together else sizes, np.int32)
    rivals = [int(total[0])] * len(sizes) if together else sizes
    strides = [_stride(x.shape, n) for x, n in zip(scores, rivals, strict=True)]
    sampled = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    leaves = _placed(scores, sizes, sampled, together)
    drop = min(zero_bits(x.dtype) for x in scores)
    zero = sum(
        jnp.sum(array.ravel()[:0], dtype=jnp.int32) for leaf in leaves for array in leaf.arrays
    )
    # Plus zero: inside shard_map it must be seen to vary as the scores do.
    k = jnp.reshape(k, (contests,)) + zero

    def first(k: Array) -> Array:
        size = np.array([sum(sampled)] if together else sampled, np.int32)
        width = int(size.max())
        nothing = lax.convert_element_type(zero, jnp.uint32)
        sample = jnp.full((contests, width), nothing)
        for leaf, stride in zip(leaves, strides, strict=True):
            sample = _sample_into(
                sample,
                leaf.row,
                leaf.column,
                leaf.arrays,
                recipe=leaf.recipe,
                stride=stride,
                drop=drop,
            )
        ordered = lax.sort(sample, dimension=1)  # rank 0, where nothing is sampled, comes first
        at = width - sampled_ranks(size, total, k)
        return apart(ordered[np.arange(contests)[None], at])

    def count(cuts: Cut) -> Array:
        counts = cuts.key & 0
        for leaf in leaves:
            counts = _count_into(
                counts,
                cuts,
                leaf.row,
                leaf.start,
                leaf.arrays,
                recipe=leaf.recipe,
                shape=leaf.shape,
                fast=len(leaves) <= _FEW,
            )
        return counts

    cut = find_cut(count, k, total, first, drop)
    return [
        Computed(_masked, (x, *cut, leaf.row, leaf.start), x.shape, np.dtype(bool))
        for x, leaf in zip(scores, leaves, strict=True)
    ]


def _placed(
    scores: Sequence[Any], sizes: Sequence[int], sampled: Sequence[int], together: bool
) -> list[_Leaf]:
    if together:
        rows = [0] * len(sizes)
        starts = list(itertools.accumulate(sizes, initial=0))[:-1]
        columns = list(itertools.accumulate(sampled, initial=0))[:-1]
    else:
        rows = list(range(len(sizes)))
        starts = columns = [0] * len(sizes)
    numbers = _numbers(numbers=tuple(zip(rows, starts, columns, strict=True)))
    leaves = []
    for x, where in zip(scores, numbers, strict=True):
        recipe, arrays = recipe_of([x])
        leaves.append(_Leaf(recipe, tuple(arrays), tuple(x.shape), *where))
    return leaves


def _stride(shape: tuple[int, ...], rivals: int) -> int:
    """Every how many-th score of a leaf is sampled: about as many as are wanted, of all columns."""
    wanted = int(np.clip(rivals // _THIN, *_SAMPLE))
    stride = -(-rivals // wanted)
    while shape and shape[-1] > 1 and math.gcd(stride, shape[-1]) > 1:
        stride += 1
    return stride


@compiled_once(static=["numbers"])
def _numbers(*, numbers: tuple[tuple[int, ...], ...]) -> tuple[tuple[Array, ...], ...]:
    """Numbers of which the compiler sees no more than that they are some."""
    return jax.tree.map(jnp.uint32, numbers)


@compiled_once(static=["recipe", "stride", "drop"])
def _sample_into(
    sample: Array, row: Array, column: Array, arrays: Any, *, recipe: Recipe, stride: int, drop: int
) -> Array:
    """The sample of all leaves, with some ranks of one leaf in it."""
    [scores] = recipe(*arrays)
    some = to_rank(order_key(scores.reshape(-1)[::stride]), drop)
    return lax.dynamic_update_slice(sample, some[None], (row, column))


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
    own = [lax.dynamic_slice(x, (_FIRST, row), (PROBES, 1)) for x in (counts, *cuts)]
    before, keys, lasts = (lax.squeeze(x, [1]) for x in own)
    if not stays_called():  # written out, scores would be moved out of the loop, and stored
        arrays, keys, lasts = lax.optimization_barrier((arrays, keys, lasts))
    rows = math.gcd(math.prod(shape), _ROWS)  # XLA:CPU shares them among cores

    def counted(marks: Callable[[Array], list[Array]]) -> Array:
        [scores] = recipe(*arrays)
        return jnp.stack(counts_of(counts_of(marks(scores.reshape(rows, -1)), (1,)), (0,)))

    def by_key() -> Array:
        return counted(lambda scores: [order_key(scores) >= keys[i] for i in range(PROBES)])

    def by_position() -> Array:
        place = (lax.convert_element_type(start, jnp.int32), math.prod(shape) // rows, 1)
        cuts = [Cut(keys[i], lasts[i]) for i in range(PROBES)]
        return counted(lambda scores: kept(scores, place, cuts))

    # By position costs half a pass more, and holds for both; by key is one more kernel to compile.
    more = lax.cond(jnp.all(lasts == EVERYWHERE), by_key, by_position) if fast else by_position()
    return lax.dynamic_update_slice(counts, (before + more)[:, None], (_FIRST, row))


def _masked(scores: Array, keys: Array, lasts: Array, row: Array, start: Array) -> Array:
    """The mask of a leaf, from the cuts of all contests."""
    own = lambda values: lax.squeeze(lax.dynamic_slice(values, (row,), (1,)), [0])
    steps = [math.prod(scores.shape[axis + 1 :]) for axis in range(scores.ndim)]
    place = (lax.convert_element_type(start, jnp.int32), *steps)
    return kept(scores, place, [Cut(own(keys), own(lasts))])[0]
