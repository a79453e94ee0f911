"""The cut between what is kept and what is not, found by counting.

A threshold keeps exactly k scores when k of them lie at or above it, and finding it takes counts
only. Each pass over the scores counts four thresholds at once (on a CPU that costs as much as one)
and narrows the bracket around the k-th largest: the first four come from a small sample, later
ones from interpolation, or from an even split where interpolation disappoints. When equal scores
straddle the cut, the same search goes on over positions and decides which of them stay. Where the
scores lie, and how counts are added up, is the caller's business.

An example: the 3 best of 1 2 7 5 7 4 9 7, as if ranks went from 0 to 15.

====  ==========  ==============  ============  ===================================================
pass  bracket     thresholds      counts        what follows
====  ==========  ==============  ============  ===================================================
1     [0, 16)     3 6 9 12        6 4 1 0       4 >= 3 > 1: the cut lies in [6, 9)
2     [6, 9)      7 8 8 8         4 1 1 1       [7, 8) holds one rank: 7 is tied, and 4 are too many
3     [1, 9)      2 2 4 7         3 3 3 1       3 are kept: 9, and the sevens up to position 4
====  ==========  ==============  ============  ===================================================

In pass 3 thresholds are positions among the sevens, counted from the end: 4 keeps those up to position 8 - 4.

A search is compiled in every program that prunes, so what it carries from pass to pass is one small
array: XLA:CPU then compiles few kernels for all that happens between two passes.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxprune.selection.ranks import CEILING, LARGEST, order_key, to_key, to_rank, to_score
from jaxprune.selection.shared_kernels import compiled_once

__all__ = [
    "EVERYWHERE",
    "PROBES",
    "Cut",
    "find_cut",
    "masks_of_cuts",
    "sample_positions",
    "separate_ties",
]

PROBES = 4  # thresholds per pass
EVERYWHERE = np.int32(2**31 - 1)  # behind every position
# Of the first thresholds from the cut, in standard deviations.
_FIRST_DEVIATIONS = (4.0, 0.7, -0.7, -4.0)
# Of later thresholds from the interpolated cut: in standard deviations, and in scores besides.
_LATER_DEVIATIONS = (-2.0, -0.25, 0.25, 2.0)
_LATER_OFFSETS = (-0.5, -0.5, 0.5, 0.5)
# What interpolation errs by, as a fraction of the scores in the bracket, as densities are not flat.
_CURVATURE = np.float32(0.002)
_SUSPECTED_TIE = 16  # scores left in the bracket, below which they may all be equal


class Cut(NamedTuple):
    """The boundary of what a contest keeps: keys above one, and those equal to it up to a position.

    Attributes:
      key: int32, of the last score that is kept.
      last: int32, the last position at which an equal score is kept; `EVERYWHERE`: all of them are.
    """

    key: Array
    last: Array


class _Search(NamedTuple):
    """A search between two passes: uint32[contests] each.

    Attributes:
      low: threshold at or above which at least k lie.
      high: threshold at or above which fewer than k lie.
      above_low: how many lie at or above `low`.
      above_high: how many lie at or above `high`.
      trusted: whether thresholds are interpolated; otherwise they are evenly spread.
      tied: whether thresholds are positions among equal scores, counted from the end; otherwise ranks.
      tie: the rank of those equal scores.
    """

    low: Array
    high: Array
    above_low: Array
    above_high: Array
    trusted: Array
    tied: Array
    tie: Array


# A search and its thresholds are carried as uint32[_FIXED + PROBES, contests]: one row per field, then one
# per threshold. The functions below call that array `rows`.
_FIXED = len(_Search._fields)


def find_cut(
    count: Callable[[Cut], Array],
    k: Array,
    total: int | np.ndarray,
    first: Callable[[Array], Array] | None,
    drop: int,
) -> Cut:
    """Returns the cut of each contest above which its k best scores lie.

    Args:
      count: cuts, four of each contest, in arrays [4, *k.shape] -> how many scores each of them keeps, int32
        in the same shape.
      k: int32, how many to keep, at most `total`; one number per contest.
      total: how many scores compete, one number for all contests or one for each; positions are below it.
      first: k -> ranks of the first thresholds, uint32[4, *k.shape], rising; `None`: they are evenly spread.
      drop: how many low bits of the keys carry nothing.

    Returns:
      The cuts, int32 in the shape of `k`.

    >>> scores = jnp.array([1.0, 2.0, 7.0, 5.0, 7.0, 4.0, 9.0, 7.0])
    >>> def mask_of(cut):
    ...     return masks_of_cuts(scores, (0, 1), [cut])[0]
    >>> def count(cuts):
    ...     return jnp.stack([mask_of(Cut(*cut)).sum() for cut in zip(*cuts, strict=True)])
    >>> mask_of(find_cut(count, jnp.int32(3), 8, None, drop=0)).astype(int)
    Array([0, 0, 1, 0, 1, 0, 1, 0], dtype=int32)
    """
    wanted = lax.convert_element_type(k, jnp.uint32)
    # Plus zero: inside shard_map, loop carries must be seen to vary over devices as k does.
    totals = jnp.asarray(total, jnp.uint32) + (wanted & np.uint32(0))
    rows = _initial_rows(wanted, totals, drop=drop)
    if first is not None:
        rows = _with_first_thresholds(rows, first(k))

    def is_unsettled(rows: Array) -> Array:
        search = _unpack(rows)
        is_single_position = (search.tied > 0) & (search.high - search.low <= 1)
        return jnp.any((search.above_low != wanted) & ~is_single_position)

    def make_pass(rows: Array) -> Array:
        counts = count(_cuts_of_thresholds(rows, totals, drop=drop))
        reached_count = _count_reached(counts, wanted)
        narrowed = _narrow(rows, counts, reached_count, wanted, totals)
        return _with_next_thresholds(narrowed, wanted, drop=drop)

    return _final_cut(lax.while_loop(is_unsettled, make_pass, rows), totals, drop=drop)


@compiled_once(static=["drop"])
def _initial_rows(wanted: Array, total: Array, *, drop: int) -> Array:
    """The rows of a search before the first pass, with thresholds that are evenly spread."""
    ceiling = jnp.full_like(wanted, (CEILING - 1 >> drop) + 1)
    zeros = jnp.zeros_like(wanted)
    keeps_some = wanted > 0
    search = _Search(
        low=jnp.where(keeps_some, zeros, ceiling),
        high=ceiling,
        above_low=jnp.where(keeps_some, total, zeros),
        above_high=zeros,
        trusted=zeros,
        tied=zeros,
        tie=zeros,
    )
    return _pack(search, _next_thresholds(search, wanted, drop))


@compiled_once()
def _with_first_thresholds(rows: Array, first: Array) -> Array:
    """The rows of a search with other first thresholds, which are trusted."""
    search = _unpack(rows)
    padding = [(_FIXED, 0, 0), *[(0, 0, 0)] * (rows.ndim - 1)]
    thresholds = _clip_to_bracket(search, lax.pad(first, np.uint32(0), padding))
    return _pack(search._replace(trusted=jnp.ones_like(search.trusted)), thresholds)


@compiled_once(static=["drop"])
def _cuts_of_thresholds(rows: Array, total: Array, *, drop: int) -> Cut:
    """The cuts that the next thresholds of a search mean."""
    return _to_cut(_unpack(rows), rows[_FIXED:], total, drop)


@compiled_once(static=["drop"])
def _final_cut(rows: Array, total: Array, *, drop: int) -> Cut:
    """The cut at the end of a search."""
    search = _unpack(rows)
    return Cut(*(values[0] for values in _to_cut(search, search.low[None], total, drop)))


def _to_cut(search: _Search, thresholds: Array, total: Array, drop: int) -> Cut:
    """The cuts at some thresholds: ranks, or where scores are tied, positions from the end."""
    tied = search.tied[None] > 0
    keys = to_key(jnp.where(tied, search.tie[None], thresholds), drop)
    positions = lax.convert_element_type(total[None] - thresholds, jnp.int32)
    return Cut(keys, jnp.where(tied, positions, EVERYWHERE))


@compiled_once()
def _count_reached(counts: Array, wanted: Array) -> Array:
    """How many thresholds have as many scores above them as are wanted."""
    is_enough = lax.convert_element_type(counts, jnp.uint32) >= wanted[None]
    return sum(lax.convert_element_type(is_enough[i], jnp.int32) for i in range(PROBES))  # type: ignore


@compiled_once()
def _narrow(rows: Array, counts: Array, reached_count: Array, wanted: Array, total: Array) -> Array:
    """The search after one more pass, in the rows without thresholds."""
    search = _unpack(rows)
    counts = lax.convert_element_type(counts, jnp.uint32)
    # Thresholds rise, so counts fall: the new bracket begins at the last threshold that was reached.
    edges = [search.low, *(rows[_FIXED + i] for i in range(PROBES)), search.high]
    above_edges = [search.above_low, *(counts[i] for i in range(PROBES)), search.above_high]
    low = _select(edges, reached_count)
    high = _select(edges[1:], reached_count)
    above_low = _select(above_edges, reached_count)
    above_high = _select(above_edges[1:], reached_count)
    is_fast = above_low - above_high < search.above_low - search.above_high >> 2
    # One rank is left and too many have it: from here on their positions decide.
    meets_tie = (search.tied == 0) & (above_low != wanted) & (high - low <= 1)
    narrowed = _Search(
        low=jnp.where(meets_tie, np.uint32(1), low),
        high=jnp.where(meets_tie, total + 1, high),
        above_low=above_low,
        above_high=above_high,
        trusted=lax.convert_element_type(meets_tie | is_fast | (search.trusted == 0), jnp.uint32),
        tied=lax.convert_element_type(meets_tie, jnp.uint32) | search.tied,
        tie=jnp.where(meets_tie, low, search.tie),
    )
    settled = search.above_low == wanted  # what is found must not move while other contests go on
    fields = [jnp.where(settled, old, new) for old, new in zip(search, narrowed, strict=True)]
    return _pack(_Search(*fields), jnp.zeros_like(rows))


@compiled_once(static=["drop"])
def _with_next_thresholds(rows: Array, wanted: Array, *, drop: int) -> Array:
    """The rows of a search with its next thresholds."""
    search = _unpack(rows)
    return _pack(search, _next_thresholds(search, wanted, drop))


def _next_thresholds(search: _Search, wanted: Array, drop: int) -> Array:
    """Thresholds around the expected cut, or evenly spread, in the rows behind those of the search."""

    def to_float(values: Array) -> Array:
        return lax.convert_element_type(values, jnp.float32)

    def to_column(values: Sequence[float]) -> np.ndarray:
        return np.reshape([0] * _FIXED + list(values), (-1, *[1] * wanted.ndim))

    low = search.low[None]
    high = search.high[None]
    ordinals = to_column(range(1, PROBES + 1)).astype(np.uint32)
    deviations, offsets = (
        to_column(values).astype(np.float32) for values in (_LATER_DEVIATIONS, _LATER_OFFSETS)
    )
    inside_count = to_float(search.above_low - search.above_high + 1)[None]
    # Where a bracket is settled, counts may lie below k, and unsigned numbers wrap: nobody looks there.
    excess = to_float(jnp.maximum(search.above_low, wanted) - wanted)[None]
    deviation = jnp.sqrt(jnp.maximum(excess * (1 - excess / inside_count), 0))
    spread = deviation + _CURVATURE * inside_count
    guess = jnp.clip((excess + deviations * spread + offsets) / inside_count, 0, 1)
    trusted = search.trusted[None] > 0
    fraction = jnp.where(trusted, guess, ordinals.astype(np.float32) / np.float32(PROBES + 1))
    by_threshold = low + lax.convert_element_type(fraction * to_float(high - low), jnp.uint32)
    # Of finite numbers, halved so that their difference is finite: whoever looks for NaN finds none.
    half_low, half_high = (
        0.5 * to_score(jnp.minimum(to_key(ranks, drop), LARGEST)) for ranks in (low, high)
    )
    by_score = to_rank(order_key(2 * (half_low + guess * (half_high - half_low))), drop)
    thresholds = jnp.where(trusted & (search.tied[None] == 0), by_score, by_threshold)
    # Few scores are left: the first threshold asks whether all of them are equal to the lowest.
    asks_for_tie = (inside_count < _SUSPECTED_TIE) & (ordinals == 1)
    thresholds = jnp.where(asks_for_tie, low + 1, thresholds)
    # A bracket of few ranks is tried out rank by rank.
    thresholds = jnp.where(high - low <= PROBES + 1, low + ordinals, thresholds)
    return _clip_to_bracket(search, thresholds)


def _clip_to_bracket(search: _Search, thresholds: Array) -> Array:
    return jnp.clip(thresholds, search.low[None] + 1, jnp.maximum(search.high[None], 2) - 1)


def _select(values: Sequence[Array], index: Array) -> Array:
    """Takes each element from the array of several that `index` says there."""
    selected = values[0]
    for i, value in enumerate(values[1:], 1):
        selected = jnp.where(index == i, value, selected)
    return selected


def _unpack(rows: Array) -> _Search:
    return _Search(*(rows[i] for i in range(_FIXED)))


def _pack(search: _Search, thresholds: Array) -> Array:
    """One array of a search, by selection: a concatenation has a kernel for each of its parts.

    Args:
      search: the fields, which become the first rows.
      thresholds: array of all rows, in which those behind the fields are thresholds.
    """
    shape = (-1, *[1] * (thresholds.ndim - 1))
    row_index = np.reshape(np.arange(thresholds.shape[0]), shape)
    packed = thresholds
    for i, value in enumerate(search):
        packed = jnp.where(row_index == i, value[None], packed)
    return packed


def sample_positions(size: int | np.ndarray, total: int | np.ndarray, k: Array) -> Array:
    """Returns positions in a sorted sample that lie close to the cut and well off it.

    Args:
      size: scores in the sample, one number for all contests or one for each.
      total: scores in all, likewise.
      k: int32, how many of them are kept, one number per contest.

    Returns:
      Positions from the best down, from 1 to `size`, int32[4, *k.shape], falling: the scores there rise.

    >>> sample_positions(100, 1000, jnp.int32(500)).tolist()
    [70, 54, 46, 30]
    """
    sizes = np.asarray(size, np.float32)
    totals = np.asarray(total, np.float32)
    expected = lax.convert_element_type(k, jnp.float32) * (sizes / totals)
    spread = jnp.sqrt(jnp.maximum(expected * (1 - expected / sizes), 1))
    deviations = np.reshape(_FIRST_DEVIATIONS, (-1, *[1] * k.ndim)).astype(np.float32)
    positions = jnp.round(expected[None] + deviations * spread[None])
    return jnp.clip(lax.convert_element_type(positions, jnp.int32), 1, np.asarray(size)[None])


def separate_ties(thresholds: Array) -> Array:
    """Returns first thresholds with the last two one rank higher where the middle two are equal.

    The sample then has equal scores at the cut, and the thresholds enclose that rank.

    >>> separate_ties(jnp.array([3, 5, 5, 7])).tolist()
    [3, 5, 6, 8]
    """
    ordinals = lax.broadcasted_iota(jnp.int32, thresholds.shape, 0)
    is_tied = (thresholds[1] == thresholds[2])[None]
    return jnp.where((ordinals >= 2) & is_tied, thresholds + 1, thresholds)


def masks_of_cuts(scores: Array, place: Sequence[Any] | Array, cuts: Sequence[Cut]) -> list[Array]:
    """Returns the mask of what each cut keeps: keys above its own, and equal ones up to its last position.

    Args:
      scores: of any real dtype.
      place: the position of the first score, and the steps of position along each dimension.
      cuts: with elements that broadcast against the scores.
    """
    keys = order_key(scores)
    positions = _positions(scores.shape, place)
    # Behind the last position an equal key must be one higher: an addition costs less than two comparisons.
    is_behind = [lax.convert_element_type(positions > cut.last, jnp.int32) for cut in cuts]
    return [keys >= cut.key + raised for cut, raised in zip(cuts, is_behind, strict=True)]


def _positions(shape: tuple[int, ...], place: Sequence[Any] | Array) -> Array:
    """The position of each score in its contest, from that of the first and the steps along dimensions."""
    positions = jnp.full(shape, jnp.int32(place[0]))
    for axis in range(len(shape)):
        if shape[axis] > 1:
            positions += lax.broadcasted_iota(jnp.int32, shape, axis) * place[1 + axis]
    return positions
