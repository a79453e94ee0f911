"""Exact selection of the k largest scores by counting: nothing is sorted, concatenated or gathered.

A threshold keeps exactly k scores when k of them lie at or above it, and finding it takes counts
only. Each pass over the scores counts four thresholds at once (on a CPU that costs as much as one)
and narrows the bracket around the k-th largest: the first four come from a small sample, later
ones from interpolation, or from an even split where interpolation disappoints. The counts are a few
integers per pass, also on a mesh of devices. When equal scores straddle the cut, the same search
over positions decides which of them stay.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import auto_axes

_INFINITY = 0x7F800000  # bits of float32 inf
_LOWEST = np.int32(-(2**31))
_PROBES = 4  # thresholds per pass
_SAMPLE = 65536
_ROWS = 1024


def order_key(scores: Array) -> Array:
    """Maps scores to int32 keys in the same order: NaN lowest, -0.0 equal to 0.0.

    The key is the float32 bit pattern, negated below zero. It is integer arithmetic throughout, so
    denormals keep their order on devices that flush them. Other types are cast to float32 first.

    Args:
      scores: an array of any real dtype.

    Returns:
      An int32 array of the same shape.

    >>> order_key(jnp.array([1.0, 0.0, -0.0, -1.0])).tolist()
    [1065353216, 0, 0, -1065353216]
    """
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    size = bits & 0x7FFFFFFF
    key = lax.select(bits < 0, -size, size)
    return lax.select(size > _INFINITY, lax.full_like(key, _LOWEST), key)


def top(leaves: Sequence[Array], k: int | Array) -> list[Array]:
    """Marks the k largest scores over all leaves together.

    Equal scores are kept in order of position: leaf by leaf, row-major within a leaf. NaN ranks
    below everything. The cost is 2-6 counting passes for continuous scores, about 10 for heavily
    tied ones, 45 at worst, and one pass to write the masks; extra memory is a sample of at most
    65,536 scores.

    Args:
      leaves: arrays of any shape and real dtype, fewer than 2**31 scores in all.
      k: how many to keep, a Python int or an int32 scalar (it may be traced), clamped to what
        there is.

    Returns:
      One bool array per leaf, k True in all, each sharded as its leaf.

    >>> top([jnp.array([3.0, 1.0]), jnp.array([[2.0], [3.0]])], 2)
    [Array([ True, False], dtype=bool), Array([[False],
           [ True]], dtype=bool)]
    """
    leaves = tuple(jnp.asarray(x) for x in leaves)
    total = sum(x.size for x in leaves)
    if total >= 2**31:
        raise ValueError(
            f"top: {total} scores compete, more than int32 counts (2**31 - 1) can tell apart; "
            "select in smaller groups, for example layer by layer."
        )
    return list(_top(leaves, _clamp(k, total)))


def top_along(scores: Array, k: int | Array, axis: int) -> Array:
    """Marks the k largest scores of each slice along one axis; every slice is its own contest.

    Equal scores are kept in order of position along the axis, NaN ranks below everything. Up to 16
    scores per contest the ranks come from all pairwise comparisons in one fused pass; longer
    contests are searched together by counting passes, as in `top`.

    Args:
      scores: an array of any real dtype with at least one axis.
      k: how many to keep per contest, a Python int or an int32 scalar, clamped to the axis.
      axis: the axis along which scores compete.

    Returns:
      A bool array of the same shape and sharding, k True along every slice.

    >>> top_along(jnp.array([[1.0, 4.0, 4.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), 2, axis=1).astype(int)
    Array([[0, 1, 1, 0],
           [1, 1, 0, 0]], dtype=int32)
    """
    scores = jnp.asarray(scores)
    axis = range(scores.ndim)[axis]
    return _top_along(scores, _clamp(k, scores.shape[axis]), axis)


def _clamp(k: int | Array, total: int) -> Array:
    if isinstance(k, int):
        return jnp.int32(min(max(k, 0), total))
    return jnp.clip(k, 0, total).astype(jnp.int32)


@jax.jit
def _top(leaves: tuple[Array, ...], k: Array) -> tuple[Array, ...]:
    return _on_auto_axes(_top_by_counts, leaves)(leaves, k)


@jax.jit(static_argnames="axis")
def _top_along(scores: Array, k: Array, axis: int) -> Array:
    select = _top_by_ranks if scores.shape[axis] <= 16 else _top_along_by_counts
    return _on_auto_axes(lambda x, k: select(x, k, axis), scores)(scores, k)


def _on_auto_axes(select: Callable, scores) -> Callable:
    """Lets the compiler partition `select` on an Explicit mesh too; masks lie as the scores do."""
    shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, scores)
    if not any(s.mesh.explicit_axes for s in jax.tree.leaves(shardings)):
        return select
    return auto_axes(select, out_sharding=shardings)


def _top_by_counts(leaves: tuple[Array, ...], k: Array) -> tuple[Array, ...]:
    if all(jax.typeof(x).sharding.mesh.empty for x in leaves):  # one device: reshaping is free
        views = tuple(x.reshape(math.gcd(x.size, _ROWS) or 1, -1) for x in leaves if x.size)
    else:
        views = tuple(x for x in leaves if x.size)
    starts = np.cumsum([0] + [x.size for x in views])
    strides = [[math.prod(x.shape[a + 1 :]) for a in range(x.ndim)] for x in views]
    places = tuple(np.int32([s, *t]) for s, t in zip(starts, strides))
    masks = iter(_select(views, places, None, int(starts[-1]), k))
    return tuple(next(masks).reshape(x.shape) if x.size else jnp.zeros(x.shape, bool) for x in leaves)


def _top_along_by_counts(scores: Array, k: Array, axis: int) -> Array:
    place = np.int32([0, *(a == axis for a in range(scores.ndim))])
    return _select((scores,), (place,), axis, scores.shape[axis], k)[0]


def _top_by_ranks(scores: Array, k: Array, axis: int) -> Array:
    keys = order_key(scores)
    m = scores.shape[axis]
    rivals = [lax.index_in_dim(keys, i, axis) for i in range(m)]
    ranks = [jnp.zeros(r.shape, jnp.int8) for r in rivals]
    for i in range(m):
        for j in range(i):
            wins = rivals[i] > rivals[j]  # the earlier one, j, wins ties
            ranks[j] += wins.astype(jnp.int8)
            ranks[i] += (~wins).astype(jnp.int8)
    return jnp.concatenate([r < k.astype(jnp.int8) for r in ranks], axis)


def _select(leaves, places, axis, total, k):
    """Keeps the k best of each contest: over everything if axis is None, else along that axis."""
    if not total:
        return leaves
    drop = min(_zero_bits(x.dtype) for x in leaves)
    shape = () if axis is None else leaves[0].shape[:axis] + (1,) + leaves[0].shape[axis + 1 :]

    def counts(hits, ts, *fixed):
        # Inside a loop XLA would otherwise hoist keys and positions, copies of all the scores.
        scores, where, ts, fixed = lax.optimization_barrier((leaves, places, tuple(ts), fixed))
        return _count([hits(x, p, ts, *fixed) for x, p in zip(scores, where)], axis, shape)

    def above(x, _, ts):
        key = order_key(x)
        return [key >= t for t in ts]

    def tied_before(x, place, last, t):
        tied, at = order_key(x) == t, _index(x.shape, place)
        return [tied & (at <= p) for p in last]

    def between(lo, hi, part):
        low, high = _score(_key(lo, drop)), _score(_key(hi, drop))
        return _rank(order_key(low + part * (high - low)), drop)

    full = lambda value: jnp.full(shape, value)
    ceiling = np.uint32(((_INFINITY + 2**31) >> drop) + 1)
    k = jnp.broadcast_to(k, shape)
    bracket = (
        jnp.where(k > 0, np.uint32(0), ceiling),
        full(ceiling),
        jnp.where(k > 0, np.int32(total), np.int32(0)),
        full(np.int32(0)),
    )
    first = _sample_probes(leaves, drop, total, k) if axis is None and total else None
    lo, _, above_lo, above_hi = _search(
        lambda ts: counts(above, _key(ts, drop)), between, bracket, first, k
    )
    t = _key(lo, drop)

    tied, needed = above_lo - above_hi, k - above_hi
    bracket = (full(np.uint32(1)), full(np.uint32(total + 1)), tied, full(np.int32(0)))
    needed = jnp.where(above_lo == k, tied, needed)
    first = _probes(*bracket, needed, full(True), _line)
    last = lambda ts: total - ts.astype(jnp.int32)
    ts = _search(lambda ts: counts(tied_before, last(ts), t), _line, bracket, first, needed)[0]

    masks = []
    for x, place in zip(leaves, places):
        key = order_key(x)
        masks.append((key > t) | ((key == t) & (_index(x.shape, place) <= last(ts))))
    return tuple(masks)


def _line(lo, hi, part):
    return lo + (part * (hi - lo).astype(jnp.float32)).astype(jnp.uint32)


def _search(count, between, bracket, first, k):
    """Narrows [lo, hi) until k lie at or above lo, or it has width one."""
    if first is None:
        first = _probes(*bracket, k, jnp.zeros(k.shape, bool), between)

    def unsettled(state):
        lo, hi, above_lo, _ = state[0]
        return jnp.any((above_lo != k) & (hi - lo > 1))

    def narrow(state):
        (lo, hi, above_lo, above_hi), ts, trusted = state
        above = count(ts)
        enough = above >= k
        new = (
            jnp.max(jnp.where(enough, ts, lo), 0),
            jnp.min(jnp.where(enough, hi, ts), 0),
            jnp.min(jnp.where(enough, above, above_lo), 0),
            jnp.max(jnp.where(enough, above_hi, above), 0),
        )
        fast = (new[2] - new[3]) < (above_lo - above_hi) // 5
        trusted = fast | ~trusted
        return new, _probes(*new, k, trusted, between), trusted

    return lax.while_loop(unsettled, narrow, (bracket, first, jnp.ones(k.shape, bool)))[0]


def _probes(lo, hi, above_lo, above_hi, k, trusted, between):
    """Four thresholds within a bracket: around the expected place of the cut, or evenly spread."""
    i = lax.broadcasted_iota(jnp.int32, (_PROBES, *k.shape), 0)
    even = (i + 1) / np.float32(_PROBES + 1)
    crowd = (above_lo - above_hi + 1).astype(jnp.float32)
    middle = (above_lo - k).astype(jnp.float32) / crowd
    spread = jnp.sqrt(jnp.maximum(middle * (1 - middle), 0) / crowd)
    step = jnp.where(i < 1, -2.0, jnp.where(i < 2, -0.25, jnp.where(i < 3, 0.25, 2.0)))
    guess = middle + step * spread + jnp.where(i < 2, -0.5, 0.5) / crowd
    width = hi - lo
    ts = jnp.where(trusted, between(lo, hi, jnp.clip(guess, 0, 1)), _line(lo, hi, even))
    ts = jnp.where(width <= _PROBES + 1, lo + (i + 1).astype(jnp.uint32), ts)
    return jnp.clip(ts, lo + 1, jnp.maximum(hi, 2) - 1)


def _sample_probes(leaves, drop, total, k):
    """Thresholds around the cut, as far as a strided sample can tell."""
    stride = math.sqrt(total / np.clip(total // 32, min(2048, total), _SAMPLE))
    sample = jnp.concatenate([order_key(_strided(x, stride)).ravel() for x in leaves if x.size])
    sample = _rank(sample, drop)
    size = np.float32(sample.size)
    middle = size * (k.astype(jnp.float32) / total)
    spread = jnp.sqrt(jnp.maximum(middle * (1 - middle / size), 1))
    ranks = middle + spread * np.float32([4, 0.7, -0.7, -4])
    ranks = jnp.clip(jnp.round(ranks).astype(jnp.int32), 1, sample.size)

    def set_bit(i, ts):
        raised = ts | (np.uint32(1) << (31 - drop - i).astype(jnp.uint32))
        hits = [sample >= raised[i] for i in range(_PROBES)]
        return jnp.where(jnp.stack(_sums(hits, (0,))) >= ranks, raised, ts)

    ts = lax.fori_loop(0, 32 - drop, set_bit, jnp.zeros(_PROBES, jnp.uint32))
    return ts + jnp.uint32([0, 0, 1, 0]) * (ts[1] == ts[2])


def _strided(x, stride):
    """About one in stride**2 elements, spread over the first and the last axis."""
    if x.ndim < 2:
        return x[:: math.ceil(stride**2)] if x.ndim else x
    first = max(1, min(x.shape[0], round(stride)))
    last = max(1, round(stride**2 / first))
    return x[::first, ..., ::last]


def _count(hits, axis, shape):
    """Adds up each probe's hits over all leaves, or along the axis."""
    if axis is not None:
        return jnp.stack([s.reshape(shape) for s in _sums(hits[0], (axis,))])
    if all(jax.typeof(h[0]).sharding.mesh.empty for h in hits):  # XLA:CPU shares rows among cores
        rows = zip(*(_sums(h, (1,)) for h in hits))
        return jnp.stack(_sums([lax.concatenate(r, 0) for r in rows], (0,)))
    leaves = (_sums(h, range(h[0].ndim)) for h in hits)
    return jnp.stack([sum(s) for s in zip(*leaves)])


def _sums(hits, axes):
    """Counts of several masks in one reduction, which XLA:CPU vectorises only if variadic."""
    add = lambda a, b: tuple(x + y for x, y in zip(a, b))
    hits = tuple(lax.convert_element_type(h, jnp.int32) for h in hits)
    return lax.reduce(hits, (np.int32(0),) * len(hits), add, tuple(axes))


def _rank(key, drop):
    return lax.bitcast_convert_type(key ^ _LOWEST, jnp.uint32) >> drop


def _key(rank, drop):
    return lax.bitcast_convert_type(rank << drop, jnp.int32) ^ _LOWEST


def _score(key):
    bits = jnp.where(key < 0, _LOWEST - key, key)
    return lax.bitcast_convert_type(bits, jnp.float32)


def _index(shape, place):
    """Position of each element: place[0] + sum of coordinate a times place[1 + a]."""
    index = place[0]
    for a in range(len(shape)):
        index += lax.broadcasted_iota(jnp.int32, shape, a) * place[1 + a]
    return index


def _zero_bits(dtype) -> int:
    """How many low bits are zero in the keys of this type."""
    return {"bfloat16": 16, "float16": 13}.get(jnp.dtype(dtype).name, 0)
