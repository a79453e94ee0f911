"""The cut between what is kept and what is not, found by counting.

A threshold keeps exactly k scores when k of them lie at or above it, and finding it takes counts
only. Each pass over the scores counts four thresholds at once (on a CPU that costs as much as one)
and narrows the bracket around the k-th largest: the first four come from a small sample, later
ones from interpolation, or from an even split where interpolation disappoints. When equal scores
straddle the cut, the same search goes on over positions and decides which of them stay. Where the
scores lie, and how counts are added up, is the caller's business.

A search is compiled in every program that prunes, so what it carries from pass to pass is one small
array: XLA:CPU then compiles few kernels for all that happens between two passes.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxprune.ranks import CEILING, order_key, to_key, to_rank, to_score
from jaxprune.shared_kernels import compiled_once

__all__ = ["EVERYWHERE", "PROBES", "Cut", "apart", "counts_of", "find_cut", "kept", "sampled_ranks"]

PROBES = 4  # thresholds per pass
EVERYWHERE = np.int32(2**31 - 1)  # behind every position
_AROUND = (4.0, 0.7, -0.7, -4.0)  # of the first ones around the cut, in standard deviations
# Of later ones around the interpolated cut: in standard deviations, and in scores besides.
_DEVIATIONS, _BESIDES = (-2.0, -0.25, 0.25, 2.0), (-0.5, -0.5, 0.5, 0.5)
# What interpolation errs by, of the crowd, as densities are not flat.
_CURVATURE = np.float32(0.002)
_TIE = 16  # scores


class Cut(NamedTuple):
    """What is kept of a contest: keys above one, and those equal to it up to a position.

    Attributes:
      key: int32, of the last score that is kept.
      last: int32, the last position at which an equal score is kept; `EVERYWHERE`: all of them are.
    """

    key: Array
    last: Array


class _Search(NamedTuple):
    """A search between two passes: uint32, one row each and one per threshold.

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


_FIXED = len(_Search._fields)  # rows before those of the thresholds


def find_cut(
    count: Callable[[Cut], Array],
    k: Array,
    total: Any,
    first: Callable[[Array], Array] | None,
    drop: int,
) -> Cut:
    """Returns the cut of each contest above which its k best scores lie.

    Args:
      count: cuts, four of each contest, in arrays [4, *k.shape] -> how many scores each of them keeps, int32
        in the same shape.
      k: int32, how many to keep, at most `total`.
      total: how many scores compete; positions are below it.
      first: k -> ranks of the first thresholds, uint32[4, *k.shape], rising; `None`: they are evenly spread.
      drop: how many low bits of the keys carry nothing.
    """
    wanted = lax.convert_element_type(k, jnp.uint32)
    # Plus zero: inside shard_map, loop carries must be seen to vary over devices as k does.
    totals = jnp.asarray(total, jnp.uint32) + (wanted & np.uint32(0))
    rows = _started(wanted, totals, drop=drop)
    if first is not None:
        rows = _with_first(rows, first(k))

    def unsettled(rows: Array) -> Array:
        search = _read(rows)
        alone = (search.tied > 0) & (search.high - search.low <= 1)
        return jnp.any((search.above_low != wanted) & ~alone)

    def narrowed(rows: Array) -> Array:
        counts = count(_cuts(rows, totals, drop=drop))
        reached = _reached(counts, wanted)
        return _with_probes(_narrowed(rows, counts, reached, wanted, totals), wanted, drop=drop)

    return _found(lax.while_loop(unsettled, narrowed, rows), totals, drop=drop)


@compiled_once(static=["drop"])
def _started(wanted: Array, total: Array, *, drop: int) -> Array:
    """The rows of a search before the first pass, with thresholds that are evenly spread."""
    ceiling = jnp.full_like(wanted, (CEILING - 1 >> drop) + 1)
    nothing, some = jnp.zeros_like(wanted), wanted > 0
    search = _Search(
        low=jnp.where(some, nothing, ceiling),
        high=ceiling,
        above_low=jnp.where(some, total, nothing),
        above_high=nothing,
        trusted=nothing,
        tied=nothing,
        tie=nothing,
    )
    return _rows(search, _probes(search, wanted, drop))


@compiled_once()
def _with_first(rows: Array, first: Array) -> Array:
    """The rows of a search with other first thresholds, which are trusted."""
    search = _read(rows)
    behind = [(_FIXED, 0, 0), *[(0, 0, 0)] * (rows.ndim - 1)]
    probes = _within(search, lax.pad(first, np.uint32(0), behind))
    return _rows(search._replace(trusted=jnp.ones_like(search.trusted)), probes)


@compiled_once(static=["drop"])
def _cuts(rows: Array, total: Array, *, drop: int) -> Cut:
    """The cuts that the thresholds mean."""
    return _cut(_read(rows), rows[_FIXED:], total, drop)


@compiled_once(static=["drop"])
def _found(rows: Array, total: Array, *, drop: int) -> Cut:
    """The cut at the end of a search."""
    search = _read(rows)
    return Cut(*(x[0] for x in _cut(search, search.low[None], total, drop)))


def _cut(search: _Search, thresholds: Array, total: Array, drop: int) -> Cut:
    signed = lambda x: lax.convert_element_type(x, jnp.int32)
    tied = search.tied[None] > 0
    keys = to_key(jnp.where(tied, search.tie[None], thresholds), drop)
    return Cut(keys, jnp.where(tied, signed(total[None] - thresholds), EVERYWHERE))


@compiled_once()
def _reached(counts: Array, wanted: Array) -> Array:
    """How many thresholds have as many scores above them as are wanted."""
    enough = lax.convert_element_type(counts, jnp.uint32) >= wanted[None]
    return sum(lax.convert_element_type(enough[i], jnp.int32) for i in range(PROBES))  # type: ignore


@compiled_once()
def _narrowed(rows: Array, counts: Array, reached: Array, wanted: Array, total: Array) -> Array:
    """The search after one more pass, in the same rows; thresholds rise, so counts fall."""
    search = _read(rows)
    counts = lax.convert_element_type(counts, jnp.uint32)
    rising = [search.low, *(rows[_FIXED + i] for i in range(PROBES)), search.high]
    falling = [search.above_low, *(counts[i] for i in range(PROBES)), search.above_high]
    low, high = _entry(rising, reached), _entry(rising[1:], reached)
    above_low, above_high = _entry(falling, reached), _entry(falling[1:], reached)
    fast = above_low - above_high < search.above_low - search.above_high >> 2
    # One rank is left and too many have it: from here on their positions decide.
    ties = (search.tied == 0) & (above_low != wanted) & (high - low <= 1)
    after = _Search(
        low=jnp.where(ties, np.uint32(1), low),
        high=jnp.where(ties, total + 1, high),
        above_low=above_low,
        above_high=above_high,
        trusted=lax.convert_element_type(ties | fast | (search.trusted == 0), jnp.uint32),
        tied=lax.convert_element_type(ties, jnp.uint32) | search.tied,
        tie=jnp.where(ties, low, search.tie),
    )
    settled = search.above_low == wanted  # what is found must not move while other contests go on
    held = [jnp.where(settled, old, new) for old, new in zip(search, after, strict=True)]
    return _rows(_Search(*held), jnp.zeros_like(rows))


@compiled_once(static=["drop"])
def _with_probes(rows: Array, wanted: Array, *, drop: int) -> Array:
    """The rows of a search with the next thresholds."""
    search = _read(rows)
    return _rows(search, _probes(search, wanted, drop))


def _probes(search: _Search, wanted: Array, drop: int) -> Array:
    """Thresholds around the expected cut, or evenly spread, in the rows behind those of the search."""
    low, high = search.low[None], search.high[None]
    number = lambda x: lax.convert_element_type(x, jnp.float32)
    column = lambda values: np.reshape([0] * _FIXED + list(values), (-1, *[1] * wanted.ndim))
    which = column(range(1, PROBES + 1)).astype(np.uint32)
    deviations, besides = (column(x).astype(np.float32) for x in (_DEVIATIONS, _BESIDES))
    crowd = number(search.above_low - search.above_high + 1)[None]
    # Where a bracket is settled, counts may lie below k, and unsigned numbers wrap: nobody looks there.
    beyond = number(jnp.maximum(search.above_low, wanted) - wanted)[None]
    spread = jnp.sqrt(jnp.maximum(beyond * (1 - beyond / crowd), 0)) + _CURVATURE * crowd
    guess = jnp.clip((beyond + deviations * spread + besides) / crowd, 0, 1)
    trusted = search.trusted[None] > 0
    part = jnp.where(trusted, guess, which.astype(np.float32) / np.float32(PROBES + 1))
    line = low + lax.convert_element_type(part * number(high - low), jnp.uint32)
    low_score, high_score = to_score(to_key(low, drop)), to_score(to_key(high, drop))
    by_score = to_rank(order_key(low_score + guess * (high_score - low_score)), drop)
    probes = jnp.where(trusted & (search.tied[None] == 0), by_score, line)
    probes = jnp.where(
        (crowd < _TIE) & (which == 1), low + 1, probes
    )  # is all that is left one score?
    return _within(search, jnp.where(high - low <= PROBES + 1, low + which, probes))


def _within(search: _Search, probes: Array) -> Array:
    return jnp.clip(probes, search.low[None] + 1, jnp.maximum(search.high[None], 2) - 1)


def _entry(values: Sequence[Array], which: Array) -> Array:
    """One of several arrays, number by number."""
    found = values[0]
    for i, value in enumerate(values[1:], 1):
        found = jnp.where(which == i, value, found)
    return found


def _read(rows: Array) -> _Search:
    return _Search(*(rows[i] for i in range(_FIXED)))


def _rows(search: _Search, probes: Array) -> Array:
    """One array of a search, by selection: a concatenation has a kernel for each of its parts.

    Args:
      search: of the contests.
      probes: thresholds, in the rows behind those of the search.
    """
    row = np.reshape(np.arange(probes.shape[0]), (-1, *[1] * (probes.ndim - 1)))
    for i, value in enumerate(search):
        probes = jnp.where(row == i, value[None], probes)
    return probes


def sampled_ranks(size: Any, total: Any, k: Array) -> Array:
    """Which ones of a sample, from the best down, lie close to the cut and well off it.

    Args:
      size: of the sample.
      total: scores in all.
      k: int32, how many of them are kept.

    Returns:
      Numbers from 1 to `size`, int32[4, *k.shape], falling: the ranks of those scores rise.
    """
    sizes, totals = np.asarray(size, np.float32), np.asarray(total, np.float32)
    middle = lax.convert_element_type(k, jnp.float32) * (sizes / totals)
    spread = jnp.sqrt(jnp.maximum(middle * (1 - middle / sizes), 1))
    around = np.reshape(_AROUND, (-1, *[1] * k.ndim)).astype(np.float32)
    numbers = jnp.round(middle[None] + around * spread[None])
    return jnp.clip(lax.convert_element_type(numbers, jnp.int32), 1, np.asarray(size)[None])


def apart(ranks: Array) -> Array:
    """First thresholds, with the last two above the others: where all are equal, that tie is between them."""
    number = lax.broadcasted_iota(jnp.int32, ranks.shape, 0)
    return jnp.where((number >= 2) & (ranks[1] == ranks[2])[None], ranks + 1, ranks)


def counts_of(hits: Sequence[Array], axes: tuple[int, ...]) -> tuple[Array, ...]:
    """Counts of several masks in one reduction, which XLA:CPU vectorises only if variadic."""
    add = lambda a, b: tuple(map(operator.add, a, b))
    hits = tuple(lax.convert_element_type(h, jnp.int32) for h in hits)
    return tuple(lax.reduce(hits, (np.int32(0),) * len(hits), add, axes))


def kept(scores: Array, place: Sequence[Any], cuts: Sequence[Cut]) -> list[Array]:
    """The masks of what cuts keep: keys above them, and equal ones up to the last position.

    Args:
      scores: of any real dtype.
      place: the position of the first score, and the steps of position along each dimension.
      cuts: with entries that broadcast against the scores.
    """
    key, at = order_key(scores), _position(scores.shape, place)
    # Behind the last position an equal key must be one higher: an addition costs less than two comparisons.
    behind = [lax.convert_element_type(at > cut.last, jnp.int32) for cut in cuts]
    return [key >= cut.key + one for cut, one in zip(cuts, behind, strict=True)]


def _position(shape: tuple[int, ...], place: Sequence[Any]) -> Array:
    at = jnp.full(shape, jnp.int32(place[0]))
    for axis in range(len(shape)):
        if shape[axis] > 1:
            at += lax.broadcasted_iota(jnp.int32, shape, axis) * place[1 + axis]
    return at
