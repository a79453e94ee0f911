"""Exact selection of the k largest scores by counting: no sort, no gather.

`counting` finds the cut; here is who competes with whom, and where the scores lie: in place on any mesh of
devices (a few integers per pass travel), packed or in rows on one device, for the sake of compile time.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec
from numpy.lib.array_utils import normalize_axis_index

from jaxprune.counting import (
    PROBES,
    counts_of,
    find_cut,
    mask_above,
    own,
    sampled_probes,
    thinned,
)
from jaxprune.ranks import order_key, top_by_comparison, zero_bits

__all__ = ["top", "top_along", "top_each"]

_SMALL = 65536  # leaves below this are packed together, for the sake of compile time
_FEW = 4  # of more leaves than this that are contests of their own, those below _LARGE are copied together
_LARGE = 2**22
_ROW = 1024  # scores in a row of that copy
_WHOLE = PartitionSpec()
_THIN = 32  # one score in so many of it is in the sample
_SHORT = 32  # contests up to this length are decided by comparing all pairs


def top(
    leaves: Sequence[Array], k: int | Array, among: Sequence[Array | None] | None = None
) -> list[Array]:
    """Marks the k largest scores over all leaves together.

    Equal scores are kept in order of position: leaf by leaf, row-major within a leaf. NaN ranks
    below everything. The cost is 3-6 counting passes for continuous scores, about 5 for heavily
    tied ones, 70 at the very worst, and one pass to write the masks; extra memory is a sample of at
    most 65,536 scores and a copy of leaves smaller than that.

    Args:
      leaves: arrays of any shape and real dtype, fewer than 2**31 scores in all.
      k: how many to keep, a Python int or an int32 scalar (it may be traced), clamped to what
        there is.
      among: per leaf a bool array of those that may be marked, or `None` for all of them.

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
    return list(_top(leaves, _clamp(k, total), tuple(among or [None] * len(leaves))))


def top_each(
    leaves: Sequence[Array],
    ks: Sequence[int | Array],
    among: Sequence[Array | None] | None = None,
) -> list[Array]:
    """Marks the k largest scores of each leaf; every leaf is a contest of its own.

    What `top` finds leaf by leaf, but of five leaves and more those below 2**22 scores are copied into
    one array and searched side by side: one program is compiled instead of one per leaf.

    Args:
      leaves: arrays of any shape and real dtype, fewer than 2**31 scores each.
      ks: how many to keep of each, Python ints or int32 scalars, clamped to what there is.
      among: per leaf a bool array of those that may be marked, or `None` for all of them.

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
        allowed = [None] * len(leaves) if among is None else among
        masks = _top_each(
            tuple(leaves[i] for i in filled), counts, tuple(allowed[i] for i in filled)
        )
        for i, mask in zip(filled, masks, strict=True):
            found[i] = mask
    return found


def _countable(who: str, total: int) -> None:
    if total >= 2**31:
        raise ValueError(
            f"{who}: {total} scores compete, more than int32 counts (2**31 - 1) can tell apart; "
            "select in smaller groups, for example layer by layer."
        )


def top_along(
    scores: Array, k: int | Array, axis: int | Sequence[int], among: Array | None = None
) -> Array:
    """Marks the k largest scores of each slice along some axes; every slice is its own contest.

    Equal scores are kept in order of position in the slice, row-major, NaN ranks below everything. Up to 32
    scores along one axis are ranked by comparing all pairs in one fused pass; longer contests are
    searched side by side with counting passes, as in `top`.

    Args:
      scores: an array of any real dtype with at least one axis.
      k: how many to keep per contest, a Python int or an int32 scalar, clamped to what there is; or one
        number per contest, an int32 array that broadcasts against `scores`, of length 1 along the axes.
      axis: the axis, or axes, along which scores compete.
      among: a bool array of those that may be marked; `None`: all of them.

    Returns:
      A bool array of the same shape and sharding, k True along every slice.

    >>> top_along(jnp.array([[1.0, 4.0, 4.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), 2, axis=1).astype(int)
    Array([[0, 1, 1, 0],
           [1, 1, 0, 0]], dtype=int32)
    """
    scores = jnp.asarray(scores)
    given = [axis] if isinstance(axis, int) else axis
    axes = tuple(sorted(normalize_axis_index(i, scores.ndim) for i in given))
    if not scores.size or not axes:
        marked = jnp.broadcast_to(k, scores.shape) > 0
        return marked if among is None else marked & among
    members = math.prod(scores.shape[i] for i in axes)
    _countable("top_along", members)
    counts = _clamp(k, members)
    if counts.ndim:
        one_each = [1 if i in axes else n for i, n in enumerate(scores.shape)]
        counts = jnp.broadcast_to(counts, one_each)
    return _top_along(scores, counts, among, axes)


def _clamp(k: int | Array, total: int) -> Array:
    if isinstance(k, int):
        return jnp.int32(min(max(k, 0), total))
    return jnp.clip(k, 0, total).astype(jnp.int32)


def _barred(scores: Array, among: Array | None) -> Array:
    """The scores, with NaN, which ranks below everything, where nothing may be marked.

    Within compiled functions only: an array that holds NaN on purpose would stop who debugs NaNs.
    """
    if among is None:
        return scores
    floating = jnp.issubdtype(scores.dtype, jnp.floating)
    return jnp.where(among, scores if floating else scores.astype(jnp.float32), jnp.nan)


def _allowed(
    select: Callable[..., tuple[Array, ...]],
    leaves: tuple[Array, ...],
    k: Array,
    among: tuple[Array | None, ...],
) -> tuple[Array, ...]:
    """What `select` marks of those that may be marked."""
    found = select(tuple(map(_barred, leaves, among)), k)
    return tuple(m if a is None else m & a for m, a in zip(found, among, strict=True))


@jax.jit
def _top(leaves: tuple[Array, ...], k: Array, among: tuple[Array | None, ...]) -> tuple[Array, ...]:
    return _allowed(_top_of_all, leaves, k, among)


def _top_of_all(leaves: tuple[Array, ...], k: Array) -> tuple[Array, ...]:
    meshes = [jax.typeof(x).sharding.mesh for x in leaves]
    if any(m.explicit_axes for m in meshes):
        return _on_shards(_top_in_place, leaves, k)
    if any(m.auto_axes for m in meshes):
        return _top_in_place(leaves, k)
    return _top_packed(leaves, k)


@partial(jax.jit, static_argnames="axes")
def _top_along(scores: Array, k: Array, among: Array | None, axes: tuple[int, ...]) -> Array:
    along = lambda leaves, k: (_top_of_slices(leaves[0], k, axes),)
    return _allowed(along, (scores,), k, (among,))[0]


def _top_of_slices(scores: Array, k: Array, axes: tuple[int, ...]) -> Array:
    sharding = jax.typeof(scores).sharding
    short = len(axes) == 1 and scores.shape[axes[0]] <= _SHORT
    if not sharding.mesh.explicit_axes:
        if short:
            return top_by_comparison(scores, k, axes[0])
        split = None if sharding.mesh.auto_axes else [[()] * scores.ndim]
        return _top_in_place((scores,), k, split, contest=axes)[0]
    if short and sharding.spec[axes[0]] is None:
        rule = lambda leaves, k, _: (top_by_comparison(leaves[0], k, axes[0]),)
    else:
        rule = partial(_top_in_place, contest=axes)
    if not k.ndim:
        return _on_shards(rule, (scores,), k)[0]
    own = PartitionSpec(*(None if i in axes else e for i, e in enumerate(sharding.spec)))
    return _on_shards(
        rule, (scores,), jax.sharding.reshard(k, NamedSharding(sharding.mesh, own)), own
    )[0]


@jax.jit
def _top_each(
    leaves: tuple[Array, ...], ks: Array, among: tuple[Array | None, ...]
) -> tuple[Array, ...]:
    return _allowed(_top_of_each, leaves, ks, among)


def _top_of_each(leaves: tuple[Array, ...], ks: Array) -> tuple[Array, ...]:
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


def _on_shards(
    rule: Callable, leaves: tuple[Array, ...], k: Array, spec_of_k: PartitionSpec = _WHOLE
) -> tuple[Array, ...]:
    """Applies a rule to the local shards of leaves on an Explicit mesh; masks lie as they do."""
    shardings = [jax.typeof(x).sharding for x in leaves]
    specs = tuple(s.spec for s in shardings)
    split = [[(e,) if isinstance(e, str) else tuple(e or ()) for e in spec] for spec in specs]
    mesh = next(s.mesh for s in shardings if s.mesh.explicit_axes)
    return jax.shard_map(
        lambda leaves, k: rule(leaves, k, split),
        mesh=mesh,
        in_specs=(specs, spec_of_k),
        out_specs=specs,
        axis_names=set(mesh.explicit_axes) if mesh.auto_axes else set(),
        check_vma=False,
    )(leaves, k)


def _top_packed(leaves, k):
    """Leaves on one device, where reshaping is free and small ones can be packed together."""
    groups = []
    for small, run in itertools.groupby(leaves, lambda x: x.size < _SMALL):
        members = list(run)
        groups += [members] if small else [[x] for x in members]
    packed = [_pack(group) for group in groups]
    views = [_view(x) for x in packed]
    drop = min(zero_bits(x.dtype) for x in leaves)

    def tally(hits):
        rows = [counts_of(h, (1,)) for h in hits]
        rows = [lax.concatenate([r[i] for r in rows], 0) for i in range(PROBES)]
        return jnp.stack(counts_of(rows, (0,)))

    places, total = _places(views)
    sample = jnp.concatenate([x.reshape(1, -1) for x in thinned(views, total)], 1)
    first = partial(sampled_probes, [sample], sample.size, tally)
    cut = find_cut(views, places, k, total, tally, first, drop)
    masks = [
        mask_above(x, place, *cut) for x, place in zip(packed, _places(packed)[0], strict=True)
    ]
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
        counts = jnp.stack(counts_of(hits[0], (1,)), 1)
        return jax.ops.segment_sum(counts, owner, len(leaves), indices_are_sorted=True).T

    owners = [owner[:, None]]
    sample = [order_key(block[:, ::_THIN])]
    first = partial(sampled_probes, sample, total // _THIN, tally, owners=owners)
    cut = find_cut([block], [place], ks, total, tally, first, zero_bits(kind), owners)
    per_row = lax.optimization_barrier(own(owners, 0, *cut))  # or it is looked up per score
    mask = mask_above(block, place, *per_row).ravel()
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


def _top_in_place(leaves, k, split=None, contest: tuple[int, ...] | str = "all"):
    """Leaves as they lie: mesh axes split[i][d] cut dimension d of leaf i, None if unknown.

    The contest is over `"all"` leaves together, within `"each"` leaf, or within each slice along some axes.
    """
    each = contest == "each"
    along = contest if isinstance(contest, tuple) else None
    owners = list(range(len(leaves))) if each else None
    names = split or [((),) * x.ndim for x in leaves]
    axes = lambda x: tuple(range(x.ndim)) if along is None else along
    sizes, places = [], []
    for x, cuts in zip(leaves, names, strict=True):
        shape = [n * lax.axis_size(c) for n, c in zip(x.shape, cuts, strict=True)]
        inner = axes(x)
        steps = [math.prod(shape[a] for a in inner if a > d) * (d in inner) for d in range(x.ndim)]
        corner = sum(lax.axis_index(cuts[d]) * x.shape[d] * steps[d] for d in range(x.ndim))
        start = 0 if each else sum(sizes)
        places.append(jnp.array([start + corner, *steps], jnp.int32))
        sizes.append(math.prod(shape[a] for a in axes(x)))
    total = np.array([sizes], np.int32) if each else sum(sizes)

    def tally(hits):
        found = {}  # by the mesh axes over which they are still to be added
        for i, (masks, cuts) in enumerate(zip(hits, names, strict=True)):
            inner = axes(masks[0])
            if split:
                counts = jnp.stack(counts_of(masks, inner))
            else:  # the partitioner makes this an all-reduce; it gathers for the variadic form
                counts = jnp.stack([jnp.sum(m, inner, jnp.int32) for m in masks])
            if along is not None:
                counts = jnp.expand_dims(counts, [a + 1 for a in inner])
            across = tuple(itertools.chain.from_iterable(cuts[a] for a in inner))
            found.setdefault(across, {})[i] = counts
        add = lambda counts, across: lax.psum(counts, across) if across else counts
        if not each:
            return sum(add(sum(counts.values()), across) for across, counts in found.items())
        order = list(itertools.chain.from_iterable(found.values()))
        sums = [add(jnp.stack(list(c.values()), 1), across) for across, c in found.items()]
        return jnp.concatenate(sums, 1)[:, np.argsort(order)]

    first = None
    if along is None:
        spread = sizes if each else [total] * len(leaves)
        sample = [thinned([x], n)[0] for x, n in zip(leaves, spread, strict=True)]
        seen = [
            x.size * math.prod(map(lax.axis_size, c)) for x, c in zip(sample, names, strict=True)
        ]
        size = np.array([seen]) if each else sum(seen)
        first = partial(sampled_probes, sample, size, tally, owners=owners)
    drop = min(zero_bits(x.dtype) for x in leaves)
    cut = find_cut(leaves, places, k, total, tally, first, drop, owners)
    return tuple(
        mask_above(x, place, *own(owners, i, *cut))
        for i, (x, place) in enumerate(zip(leaves, places, strict=True))
    )
