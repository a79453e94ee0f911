"""Exact selection of the k largest scores by counting: no sort, no gather, no copy of the scores.

A threshold keeps exactly k scores when k of them lie at or above it, and finding it takes counts
only. Each pass over the scores counts four thresholds at once (on a CPU that costs as much as one)
and narrows the bracket around the k-th largest: the first four come from a small sample, later
ones from interpolation, or from an even split where interpolation disappoints. The counts are a few
integers per pass, also on a mesh of devices. When equal scores straddle the cut, the same search
over positions decides which of them stay.
"""

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec
from numpy.lib.array_utils import normalize_axis_index

from jaxprune.ranks import (
    CEILING,
    order_key,
    to_key,
    to_rank,
    to_score,
    top_by_comparison,
    zero_bits,
)

__all__ = ["order_key", "top", "top_along", "top_each"]

_PROBES = 4  # thresholds per pass
_SAMPLE = 65536  # scores
_SMALL = 65536  # leaves below this are packed together, for the sake of compile time
_MANY = 16  # of more leaves than this, those below _LARGE are packed
_FEW = 4  # of more leaves than this that are contests of their own, those below _LARGE are copied together
_LARGE = 2**22
_ROW = 1024  # scores in a row of that copy
_THIN = 32  # one score in so many of it is in the sample
_SHORT = 32  # contests up to this length are decided by comparing all pairs


def top(leaves: Sequence[Array], k: int | Array) -> list[Array]:
    """Marks the k largest scores over all leaves together.

    Equal scores are kept in order of position: leaf by leaf, row-major within a leaf. NaN ranks
    below everything. The cost is 3-6 counting passes for continuous scores, about 5 for heavily
    tied ones, 70 at the very worst, and one pass to write the masks; extra memory is a sample of at
    most 65,536 scores and a copy of leaves smaller than that. Of more than 16 leaves, those below 2**22
    scores are copied: a program per leaf would take longer to compile than all searches of a training run.

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
    _countable("top", total)
    if not total:
        return [jnp.zeros_like(x, bool) for x in leaves]
    return list(_top(leaves, _clamp(k, total)))


def top_each(leaves: Sequence[Array], ks: Sequence[int | Array]) -> list[Array]:
    """Marks the k largest scores of each leaf; every leaf is a contest of its own.

    What `top` finds leaf by leaf, but of five leaves and more those below 2**22 scores are copied into
    one array and searched side by side: one program is compiled instead of one per leaf.

    Args:
      leaves: arrays of any shape and real dtype, fewer than 2**31 scores each.
      ks: how many to keep of each, Python ints or int32 scalars, clamped to what there is.

    Returns:
      One bool array per leaf, each sharded as its leaf.

    >>> [m.astype(int) for m in top_each([jnp.array([3.0, 1.0, 2.0]), jnp.array([1.0, 1.0])], [2, 1])]
    [Array([1, 0, 1], dtype=int32), Array([1, 0], dtype=int32)]
    """
    leaves = [jnp.asarray(x) for x in leaves]
    for x in leaves:
        _countable("top_each", x.size)
    found = [jnp.zeros_like(x, bool) for x in leaves]
    filled = [i for i, x in enumerate(leaves) if x.size]
    if filled:
        counts = jnp.stack([_clamp(ks[i], leaves[i].size) for i in filled])
        masks = _top_each(tuple(leaves[i] for i in filled), counts)
        for i, mask in zip(filled, masks, strict=True):
            found[i] = mask
    return found


def _countable(who: str, total: int) -> None:
    if total >= 2**31:
        raise ValueError(
            f"{who}: {total} scores compete, more than int32 counts (2**31 - 1) can tell apart; "
            "select in smaller groups, for example layer by layer."
        )


def top_along(scores: Array, k: int | Array, axis: int) -> Array:
    """Marks the k largest scores of each slice along one axis; every slice is its own contest.

    Equal scores are kept in order of position along the axis, NaN ranks below everything. Up to 32
    scores per contest are ranked by comparing all pairs in one fused pass; longer contests are
    searched side by side with counting passes, as in `top`.

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
    axis = normalize_axis_index(axis, scores.ndim)
    if not scores.size:
        return jnp.zeros_like(scores, bool)
    return _top_along(scores, _clamp(k, scores.shape[axis]), axis)


def _clamp(k: int | Array, total: int) -> Array:
    if isinstance(k, int):
        return jnp.int32(min(max(k, 0), total))
    return jnp.clip(k, 0, total).astype(jnp.int32)


@jax.jit
def _top(leaves: tuple[Array, ...], k: Array) -> tuple[Array, ...]:
    meshes = [jax.typeof(x).sharding.mesh for x in leaves]
    if any(m.explicit_axes for m in meshes):
        return _on_shards(_top_in_place, leaves, k)
    if any(m.auto_axes for m in meshes):
        return _top_in_place(leaves, k)
    return _top_packed(leaves, k)


@partial(jax.jit, static_argnames="axis")
def _top_along(scores: Array, k: Array, axis: int) -> Array:
    sharding = jax.typeof(scores).sharding
    short = scores.shape[axis] <= _SHORT
    if not sharding.mesh.explicit_axes:
        if short:
            return top_by_comparison(scores, k, axis)
        split = None if sharding.mesh.auto_axes else [[()] * scores.ndim]
        return _top_in_place((scores,), k, split, contest=axis)[0]
    if short and sharding.spec[axis] is None:
        rule = lambda leaves, k, _: (top_by_comparison(leaves[0], k, axis),)
    else:
        rule = partial(_top_in_place, contest=axis)
    return _on_shards(rule, (scores,), k)[0]


@jax.jit
def _top_each(leaves: tuple[Array, ...], ks: Array) -> tuple[Array, ...]:
    meshes = [jax.typeof(x).sharding.mesh for x in leaves]
    if any(m.explicit_axes for m in meshes):
        return _on_shards(partial(_top_in_place, contest="each"), leaves, ks)
    if any(m.auto_axes for m in meshes):
        return _top_in_place(leaves, ks, contest="each")
    small = [i for i, x in enumerate(leaves) if x.size < _LARGE]
    small = np.array(small if len(small) > _FEW else [], int)
    found = _top_rows([leaves[i] for i in small], ks[small]) if small.size else []
    masks = dict(zip(small, found, strict=True))
    alone = {i: _top_packed((x,), ks[i])[0] for i, x in enumerate(leaves) if i not in masks}
    return tuple((masks | alone)[i] for i in range(len(leaves)))


def _on_shards(rule: Callable, leaves: tuple[Array, ...], k: Array) -> tuple[Array, ...]:
    """Applies a rule to the local shards of leaves on an Explicit mesh; masks lie as they do."""
    shardings = [jax.typeof(x).sharding for x in leaves]
    specs = tuple(s.spec for s in shardings)
    split = [[(e,) if isinstance(e, str) else tuple(e or ()) for e in spec] for spec in specs]
    mesh = next(s.mesh for s in shardings if s.mesh.explicit_axes)
    return jax.shard_map(
        lambda leaves, k: rule(leaves, k, split),
        mesh=mesh,
        in_specs=(specs, PartitionSpec()),
        out_specs=specs,
        axis_names=set(mesh.explicit_axes) if mesh.auto_axes else set(),
        check_vma=False,
    )(leaves, k)


def _top_packed(leaves, k):
    """Leaves on one device, where reshaping is free and small ones can be packed together."""
    groups = []
    limit = _SMALL if len(leaves) <= _MANY else _LARGE
    for small, run in itertools.groupby(leaves, lambda x: x.size < limit):
        members = list(run)
        groups += [members] if small else [[x] for x in members]
    packed = [_pack(group) for group in groups]
    views = [_view(x) for x in packed]
    drop = min(zero_bits(x.dtype) for x in leaves)

    def tally(hits):
        rows = [_counts(h, (1,)) for h in hits]
        rows = [lax.concatenate([r[i] for r in rows], 0) for i in range(_PROBES)]
        return jnp.stack(_counts(rows, (0,)))

    places, total = _places(views)
    sample = jnp.concatenate([x.reshape(1, -1) for x in _sample(views, total)], 1)
    first = partial(_sampled_probes, [sample], sample.size, tally)
    cut = _select(views, places, k, total, tally, first, drop)
    masks = [_mask(x, place, *cut) for x, place in zip(packed, _places(packed)[0], strict=True)]
    return tuple(itertools.chain.from_iterable(map(_unpack, masks, groups)))


def _top_rows(leaves, ks):
    """One contest per leaf, all leaves in the rows of one copy, so that one program serves them all."""
    rows = [-(-x.size // _ROW) for x in leaves]
    kind = leaves[0].dtype if len({x.dtype for x in leaves}) == 1 else jnp.float32
    fill = [jnp.full(n * _ROW - x.size, jnp.nan, kind) for x, n in zip(leaves, rows, strict=True)]
    parts = [(x.ravel().astype(kind), none) for x, none in zip(leaves, fill, strict=True)]
    block = jnp.concatenate(list(itertools.chain.from_iterable(parts))).reshape(-1, _ROW)
    owner = np.repeat(np.arange(len(leaves)), rows)  # of each row
    within = np.concatenate([np.arange(n) for n in rows])
    place = (np.int32(_ROW * within[:, None]), 0, 1)
    total = np.int32(_ROW) * np.array([rows], np.int32)

    def tally(hits):
        counts = jnp.stack(_counts(hits[0], (1,)), 1)
        return jax.ops.segment_sum(counts, owner, len(leaves), indices_are_sorted=True).T

    owners = [owner[:, None]]
    sample = [order_key(block[:, ::_THIN])]
    first = partial(_sampled_probes, sample, total // _THIN, tally, owners=owners)
    cut = _select([block], [place], ks, total, tally, first, zero_bits(kind), owners)
    per_row = lax.optimization_barrier(_own(owners, 0, *cut))  # or it is looked up per score
    mask = _mask(block, place, *per_row).ravel()
    starts = _ROW * np.cumsum([0, *rows])
    return [
        lax.slice_in_dim(mask, start, start + x.size).reshape(x.shape)
        for x, start in zip(leaves, starts, strict=False)
    ]


def _view(x):
    """The scores in rows: XLA:CPU shares the rows of a reduction among the cores."""
    return x.reshape(math.gcd(x.size, 1024), -1)


def _places(leaves):
    """Per leaf, the position of its first score and the steps along its dimensions; the total."""
    places, start = [], 0
    for x in leaves:
        steps = [math.prod(x.shape[d + 1 :]) for d in range(x.ndim)]
        places.append(np.array([start, *steps], np.int32))
        start += x.size
    return places, start


def _pack(leaves):
    if len(leaves) == 1:
        return leaves[0]
    kinds = {x.dtype for x in leaves}
    kind = kinds.pop() if len(kinds) == 1 else jnp.float32
    return jnp.concatenate([x.ravel().astype(kind) for x in leaves])


def _unpack(mask, leaves):
    if len(leaves) == 1:
        return [mask]
    parts = jnp.split(mask, np.cumsum([x.size for x in leaves])[:-1])
    return [part.reshape(x.shape) for part, x in zip(parts, leaves, strict=True)]


def _top_in_place(leaves, k, split=None, contest: int | str = "all"):
    """Leaves as they lie: mesh axes split[i][d] cut dimension d of leaf i, None if unknown.

    The contest is over `"all"` leaves together, within `"each"` leaf, or within each slice along an axis.
    """
    each, axis = contest == "each", contest if isinstance(contest, int) else None
    owners = list(range(len(leaves))) if each else None
    names = split or [((),) * x.ndim for x in leaves]
    axes = lambda x: tuple(range(x.ndim)) if axis is None else (axis,)
    sizes, places = [], []
    for x, cuts in zip(leaves, names, strict=True):
        shape = [n * lax.axis_size(c) for n, c in zip(x.shape, cuts, strict=True)]
        steps = [math.prod(shape[d + 1 :]) if axis is None else d == axis for d in range(x.ndim)]
        corner = sum(lax.axis_index(cuts[d]) * x.shape[d] * steps[d] for d in range(x.ndim))
        start = 0 if each else sum(sizes)
        places.append(jnp.array([start + corner, *steps], jnp.int32))
        sizes.append(math.prod(shape[a] for a in axes(x)))
    total = np.array([sizes], np.int32) if each else sum(sizes)

    def tally(hits):
        found = {}  # by the mesh axes over which they are still to be added
        for i, (masks, cuts) in enumerate(zip(hits, names, strict=True)):
            along = axes(masks[0])
            if split:
                counts = jnp.stack(_counts(masks, along))
            else:  # the partitioner makes this an all-reduce; it gathers for the variadic form
                counts = jnp.stack([jnp.sum(m, along, jnp.int32) for m in masks])
            if axis is not None:
                counts = jnp.expand_dims(counts, axis + 1)
            across = tuple(itertools.chain.from_iterable(cuts[a] for a in along))
            found.setdefault(across, {})[i] = counts
        add = lambda counts, across: lax.psum(counts, across) if across else counts
        if not each:
            return sum(add(sum(counts.values()), across) for across, counts in found.items())
        order = list(itertools.chain.from_iterable(found.values()))
        sums = [add(jnp.stack(list(c.values()), 1), across) for across, c in found.items()]
        return jnp.concatenate(sums, 1)[:, np.argsort(order)]

    first = None
    if axis is None:
        spread = sizes if each else [total] * len(leaves)
        sample = [_sample([x], n)[0] for x, n in zip(leaves, spread, strict=True)]
        seen = [
            x.size * math.prod(map(lax.axis_size, c)) for x, c in zip(sample, names, strict=True)
        ]
        size = np.array([seen]) if each else sum(seen)
        first = partial(_sampled_probes, sample, size, tally, owners=owners)
    drop = min(zero_bits(x.dtype) for x in leaves)
    cut = _select(leaves, places, k, total, tally, first, drop, owners)
    return tuple(
        _mask(x, place, *_own(owners, i, *cut))
        for i, (x, place) in enumerate(zip(leaves, places, strict=True))
    )


def _own(owners, i, *values):
    """What array `i` compares with: the entries of the contests that own it, or of its rows."""
    return values if owners is None else [value[owners[i]] for value in values]


def _select(leaves, places, k, total, tally, first, drop, owners=None):
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
            own = [_own(owners, i, *ts, *fixed) for i in range(len(leaves))]
            # Without the barrier XLA hoists keys and positions, copies of all scores, out of loops.
            xs, at, own = lax.optimization_barrier((leaves, places, own))
            split = [(values[: len(ts)], values[len(ts) :]) for values in own]
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

    shape = (1, *jax.eval_shape(tally, [[x] * _PROBES for x in leaves]).shape[1:])
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
    i = lax.broadcasted_iota(jnp.int32, (_PROBES, *k.shape[1:]), 0)
    even = (i + 1) / np.float32(_PROBES + 1)
    crowd = (above_lo - above_hi + 1).astype(jnp.float32)
    middle = (above_lo - k).astype(jnp.float32) / crowd
    spread = jnp.sqrt(jnp.maximum(middle * (1 - middle), 0) / crowd)
    step = jnp.where(i < 1, -2.0, jnp.where(i < 2, -0.25, jnp.where(i < 3, 0.25, 2.0)))
    guess = middle + step * spread + jnp.where(i < 2, -0.5, 0.5) / crowd
    ts = jnp.where(trusted, between(lo, hi, jnp.clip(guess, 0, 1)), _line(lo, hi, even))
    ts = jnp.where(hi - lo <= _PROBES + 1, lo + (i + 1).astype(jnp.uint32), ts)
    return jnp.clip(ts, lo + 1, jnp.maximum(hi, 2) - 1)


def _line(lo, hi, part):
    return lo + (part * (hi - lo).astype(jnp.float32)).astype(jnp.uint32)


def _sample(leaves, total):
    """About one in stride**2 keys of each leaf, spread over its first and its last axis."""
    stride = math.sqrt(total / np.clip(total // 32, min(2048, total), _SAMPLE))

    def thin(x):
        if x.ndim < 2:
            return x[:: math.ceil(stride**2)] if x.ndim else x
        first = max(1, min(x.shape[0], round(stride)))
        return x[::first, ..., :: max(1, round(stride**2 / first))]

    return [order_key(thin(x)) for x in leaves]


def _sampled_probes(sample, size, tally, k, total, drop, owners=None):
    """Thresholds close to the cut, and well off it, as far as a sample can tell."""
    sample = [to_rank(s, drop) for s in sample]
    column = lambda values: np.reshape(np.asarray(values, np.float32), (-1, *[1] * (k.ndim - 1)))
    middle = k.astype(jnp.float32) * np.asarray(size / total, np.float32)
    spread = jnp.sqrt(jnp.maximum(middle * (1 - middle / np.asarray(size, np.float32)), 1))
    wanted = jnp.round(middle + spread * column([4, 0.7, -0.7, -4])).astype(jnp.int32)
    wanted = jnp.clip(wanted, 1, size)

    def set_bit(i, ts):
        raised = ts | (np.uint32(1) << (31 - drop - i).astype(jnp.uint32))
        hits = [[s >= t for t in _own(owners, i, *raised)] for i, s in enumerate(sample)]
        counts = tally(hits)
        return jnp.where(counts >= wanted, raised, ts)

    ts = lax.fori_loop(0, 32 - drop, set_bit, (wanted & 0).astype(jnp.uint32))
    return ts + column([0, 0, 1, 0]).astype(np.uint32) * (ts[1:2] == ts[2:3])


def _counts(hits, axes):
    """Counts of several masks in one reduction, which XLA:CPU vectorises only if variadic."""
    add = lambda a, b: tuple(map(operator.add, a, b))
    hits = tuple(lax.convert_element_type(h, jnp.int32) for h in hits)
    return lax.reduce(hits, (np.int32(0),) * len(hits), add, axes)


def _mask(x, place, t, last):
    key = order_key(x)
    return (key > t) | ((key == t) & (_position(x.shape, place) <= last))


def _position(shape, place):
    """Position of each element: the corner's, plus a step along each dimension."""
    at = place[0]
    for d in range(len(shape)):
        at += lax.broadcasted_iota(jnp.int32, shape, d) * place[1 + d]
    return at
