"""The cut between what is kept and what is not, found by counting.

A threshold keeps exactly k scores when k of them lie at or above it, and finding it takes counts
only. Each pass over the scores counts four thresholds at once (on a CPU that costs as much as one)
and narrows the bracket around the k-th largest: the first four come from a small sample, later
ones from interpolation, or from an even split where interpolation disappoints. When equal scores
straddle the cut, the same search over positions decides which of them stay. Where the scores lie,
and how counts are added up, is the caller's business.
"""

import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.ranks import CEILING, order_key, to_key, to_rank, to_score

__all__ = ["PROBES", "counts_of", "find_cut", "mask_above", "own", "sampled_probes", "thinned"]

PROBES = 4  # thresholds per pass
_SAMPLE = 65536  # scores


def find_cut(leaves, places, k, total, tally, first, drop, owners=None):
    """The key of the k-th best score of each contest, and the last position kept of those equal.

    Args:
      leaves: the scores.
      places: per leaf, the position of its corner and the steps of position along its dimensions.
      k: int32, one per leaf if each is a contest.
      total: how many scores compete, likewise.
      tally: adds up lists of hits, one list of masks per leaf, into int32[probes, *contests].
      first: makes the first thresholds of k, total and drop; None for an even spread.
      drop: how many low bits of the keys carry nothing.
      owners: per leaf the number of its contest, or those of its rows; None: one contest for all.
    """

    def counting(hits, *fixed):
        def count(ts):
            mine = [own(owners, i, *ts, *fixed) for i in range(len(leaves))]
            # Without the barrier XLA hoists keys and positions, copies of all scores, out of loops.
            xs, at, mine = lax.optimization_barrier((leaves, places, mine))
            split = [(values[: len(ts)], values[len(ts) :]) for values in mine]
            pairs = zip(xs, at, split, strict=True)
            return tally([hits(x, p, ts, *fixed) for x, p, (ts, fixed) in pairs])

        return count

    def above(x, _, ts):
        key = order_key(x)
        return [key >= t for t in ts]

    def tied_until(x, place, last, t):
        tied, at = order_key(x) == t, _position(x.shape, place)
        return [tied & (at <= p) for p in last]

    def between(lo, hi, part):
        low, high = to_score(to_key(lo, drop)), to_score(to_key(hi, drop))
        return to_rank(order_key(low + part * (high - low)), drop)

    shape = (1, *jax.eval_shape(tally, [[x] * PROBES for x in leaves]).shape[1:])
    # Plus zero: inside shard_map, loop carries must be seen to vary over devices as the leaves do.
    k = jnp.full(shape, k) + sum(jnp.sum(order_key(x.ravel()[:0]), dtype=jnp.int32) for x in leaves)
    full = lambda value: jnp.where(k == k, value, value)
    ceiling = np.uint32((CEILING - 1 >> drop) + 1)
    bracket = (
        jnp.where(k > 0, np.uint32(0), ceiling),
        full(ceiling),
        jnp.where(k > 0, jnp.int32(total), np.int32(0)),
        full(np.int32(0)),
    )
    ts = first(k, total, drop) if first else _probes(*bracket, k, full(False), between)
    count = counting(above)
    lo, _, above_lo, above_hi = _search(lambda ts: count(to_key(ts, drop)), between, bracket, ts, k)
    t = to_key(lo[0], drop)

    tied = above_lo - above_hi
    needed = jnp.where(above_lo == k, tied, k - above_hi)
    bracket = (full(np.uint32(1)), full(jnp.uint32(total + 1)), tied, full(np.int32(0)))
    ts = _probes(*bracket, needed, full(True), _line)
    to_position = lambda ts: total - ts.astype(jnp.int32)
    count = counting(tied_until, t)
    ts, *_ = _search(lambda ts: count(to_position(ts)), _line, bracket, ts, needed)
    return t, to_position(ts[:1])[0]


def own(owners, i, *values):
    """What array `i` compares with: the entries of the contests that own it, or of its rows."""
    return values if owners is None else [value[owners[i]] for value in values]


def _search(count, between, bracket, ts, k):
    """Narrows [lo, hi) until k lie at or above lo, or it has width one.

    Brackets are [1, *contests], thresholds [probes, *contests].
    """

    def unsettled(state):
        lo, hi, above_lo, _ = state[0]
        return jnp.any((above_lo != k) & (hi - lo > 1))

    def narrow(state):
        (lo, hi, above_lo, above_hi), ts, trusted = state
        above = count(ts)
        enough = above >= k
        new = (
            jnp.max(jnp.where(enough, ts, lo), 0, keepdims=True),
            jnp.min(jnp.where(enough, hi, ts), 0, keepdims=True),
            jnp.min(jnp.where(enough, above, above_lo), 0, keepdims=True),
            jnp.max(jnp.where(enough, above_hi, above), 0, keepdims=True),
        )
        fast = (new[2] - new[3]) < (above_lo - above_hi) // 5
        trusted = fast | ~trusted
        return new, _probes(*new, k, trusted, between), trusted

    return lax.while_loop(unsettled, narrow, (bracket, ts, k == k))[0]


def _probes(lo, hi, above_lo, above_hi, k, trusted, between):
    """Four thresholds within a bracket: around the expected place of the cut, or evenly spread."""
    i = lax.broadcasted_iota(jnp.int32, (PROBES, *k.shape[1:]), 0)
    even = (i + 1) / np.float32(PROBES + 1)
    crowd = (above_lo - above_hi + 1).astype(jnp.float32)
    middle = (above_lo - k).astype(jnp.float32) / crowd
    spread = jnp.sqrt(jnp.maximum(middle * (1 - middle), 0) / crowd)
    step = jnp.where(i < 1, -2.0, jnp.where(i < 2, -0.25, jnp.where(i < 3, 0.25, 2.0)))
    guess = middle + step * spread + jnp.where(i < 2, -0.5, 0.5) / crowd
    ts = jnp.where(trusted, between(lo, hi, jnp.clip(guess, 0, 1)), _line(lo, hi, even))
    ts = jnp.where(hi - lo <= PROBES + 1, lo + (i + 1).astype(jnp.uint32), ts)
    return jnp.clip(ts, lo + 1, jnp.maximum(hi, 2) - 1)


def _line(lo, hi, part):
    return lo + (part * (hi - lo).astype(jnp.float32)).astype(jnp.uint32)


def thinned(leaves, total):
    """About one in stride**2 keys of each leaf, spread over its first and its last axis."""
    stride = math.sqrt(total / np.clip(total // 32, min(2048, total), _SAMPLE))

    def thin(x):
        if x.ndim < 2:
            return x[:: math.ceil(stride**2)] if x.ndim else x
        first = max(1, min(x.shape[0], round(stride)))
        return x[::first, ..., :: max(1, round(stride**2 / first))]

    return [order_key(thin(x)) for x in leaves]


def sampled_probes(sample, size, tally, k, total, drop, owners=None):
    """Thresholds close to the cut, and well off it, as far as a sample can tell."""
    sample = [to_rank(s, drop) for s in sample]
    column = lambda values: np.reshape(np.asarray(values, np.float32), (-1, *[1] * (k.ndim - 1)))
    middle = k.astype(jnp.float32) * np.asarray(size / total, np.float32)
    spread = jnp.sqrt(jnp.maximum(middle * (1 - middle / np.asarray(size, np.float32)), 1))
    wanted = jnp.round(middle + spread * column([4, 0.7, -0.7, -4])).astype(jnp.int32)
    wanted = jnp.clip(wanted, 1, size)

    def set_bit(i, ts):
        raised = ts | (np.uint32(1) << (31 - drop - i).astype(jnp.uint32))
        hits = [[s >= t for t in own(owners, i, *raised)] for i, s in enumerate(sample)]
        counts = tally(hits)
        return jnp.where(counts >= wanted, raised, ts)

    ts = lax.fori_loop(0, 32 - drop, set_bit, (wanted & 0).astype(jnp.uint32))
    return ts + column([0, 0, 1, 0]).astype(np.uint32) * (ts[1:2] == ts[2:3])


def counts_of(hits, axes):
    """Counts of several masks in one reduction, which XLA:CPU vectorises only if variadic."""
    add = lambda a, b: tuple(map(operator.add, a, b))
    hits = tuple(lax.convert_element_type(h, jnp.int32) for h in hits)
    return lax.reduce(hits, (np.int32(0),) * len(hits), add, axes)


def mask_above(x, place, t, last):
    """The mask of what a cut keeps: keys above it, and equal ones up to the last position."""
    key = order_key(x)
    return (key > t) | ((key == t) & (_position(x.shape, place) <= last))


def _position(shape, place):
    """Position of each element: the corner's, plus a step along each dimension."""
    at = place[0]
    for d in range(len(shape)):
        at += lax.broadcasted_iota(jnp.int32, shape, d) * place[1 + d]
    return at
