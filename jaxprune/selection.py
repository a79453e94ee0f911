"""Exact selection of the k largest scores by counting: no sort, no gather.

`counting` finds the cut, `searches` reads the scores of one device where they are. Here is who competes with
whom, and how parts on any mesh of devices are counted where they lie: a few integers per pass travel.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec
from numpy.lib.array_utils import normalize_axis_index

from jaxprune.counting import PROBES, Cut, apart, counts_of, find_cut, kept, sampled_ranks
from jaxprune.deferred import Computed, stored
from jaxprune.programs import interpreter
from jaxprune.ranks import order_key, to_rank, top_by_comparison, zero_bits
from jaxprune.searches import masks_in_place

__all__ = ["WHERE_READ", "top", "top_along", "top_each"]

_WHOLE = PartitionSpec()
_SAMPLE = 65536  # scores
_SHORT = 32  # contests up to this length are decided by comparing all pairs


def top(
    leaves: Sequence[Array], k: int | Array, among: Sequence[Array | None] | None = None
) -> list[Array]:
    """Marks the k largest scores over all leaves together.

    Equal scores are kept in order of position: leaf by leaf, row-major within a leaf. NaN ranks
    below everything. The cost is 2 to 7 counting passes for scores that differ, up to 10 where equal
    ones straddle the cut, 70 at the very worst, and one pass to write the masks; extra memory is a
    sample of at most 65,536 scores.

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

    What `top` finds leaf by leaf, but all leaves are searched side by side, in one program instead of
    one for each leaf.

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
        sizes = np.array([leaves[i].size for i in filled], np.int32)
        wanted = [
            k if isinstance(k, Array) else min(max(k, 0), 2**31 - 1)
            for k in map(ks.__getitem__, filled)
        ]
        counts = jnp.clip(jnp.stack([jnp.asarray(k, jnp.int32) for k in wanted]), 0, sizes)
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
    return tuple(map(stored, masks_in_place(leaves, k, together=True)))


def _where_read(together: bool) -> Callable[[Any, list[Any]], list[Any]]:
    """Runs a search of a program whose scores are computed where they are read (`jaxprune.deferred`)."""

    def search(equation: Any, inputs: list[Any]) -> list[Any]:
        count = len(equation.outvars)
        leaves, k, allowed = inputs[:count], stored(inputs[count]), inputs[count + 1 :]
        if len(allowed) not in (0, count):  # it is not told which leaves have none
            return interpreter.bind(equation, [stored(x) for x in inputs])
        if not allowed:
            return list(masks_in_place(leaves, k, together))
        pairs = list(zip(leaves, allowed, strict=True))
        kind = lambda x: x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else np.dtype("float32")
        barred = [Computed(_barred, (x, among), x.shape, kind(x)) for x, among in pairs]
        found = masks_in_place(barred, k, together)
        return [
            Computed(lax.bitwise_and, (mask, among), mask.shape, mask.dtype)
            for mask, among in zip(found, allowed, strict=True)
        ]

    return search


WHERE_READ = {"_top": _where_read(together=True), "_top_each": _where_read(together=False)}


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
    return tuple(map(stored, masks_in_place(leaves, ks, together=False)))


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


def _top_in_place(leaves, k, split=None, contest: tuple[int, ...] | str = "all"):
    """Leaves as they lie: mesh axes split[i][d] cut dimension d of leaf i, None if unknown.

    The contest is over `"all"` leaves together, within `"each"` leaf, or within each slice along some axes.
    """
    each = contest == "each"
    along = contest if isinstance(contest, tuple) else None
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
    total = np.array(sizes, np.int32) if each else sum(sizes)

    def tally(hits):
        """Adds up hits, one list of masks per leaf, to int32[probes, *contests]."""
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
            sums = [add(sum(counts.values()), across) for across, counts in found.items()]
            return jnp.stack(sums).sum(0)
        order = list(itertools.chain.from_iterable(found.values()))
        sums = [add(jnp.stack(list(c.values()), 1), across) for across, c in found.items()]
        return jnp.concatenate(sums, 1)[:, np.argsort(order)]

    def count(cuts):
        # Without the barrier XLA hoists keys and positions, copies of all scores, out of loops.
        xs, at, cuts = lax.optimization_barrier((leaves, places, cuts))
        probes = [Cut(key, last) for key, last in zip(*cuts, strict=True)]
        pairs = enumerate(zip(xs, at, strict=True))
        return tally([kept(x, place, [own(i, c) for c in probes]) for i, (x, place) in pairs])

    own = lambda i, cut: Cut(cut.key[i], cut.last[i]) if each else cut
    drop = min(zero_bits(x.dtype) for x in leaves)
    first = None
    if along is None:
        spread = sizes if each else [total] * len(leaves)
        sample = [to_rank(_thinned(x, n), drop) for x, n in zip(leaves, spread, strict=True)]
        seen = [
            x.size * math.prod(map(lax.axis_size, c)) for x, c in zip(sample, names, strict=True)
        ]
        size = np.array(seen, np.int32) if each else sum(seen)
        mine = lambda i, ts: ts[:, i] if each else ts
        first = lambda k: _sampled(sample, size, total, tally, mine, k, drop)
    shape = jax.eval_shape(tally, [[x] * PROBES for x in leaves]).shape[1:]
    # Plus zero: inside shard_map, loop carries must be seen to vary over devices as the leaves do.
    k = jnp.full(shape, k) + sum(jnp.sum(order_key(x.ravel()[:0]), dtype=jnp.int32) for x in leaves)
    cut = find_cut(count, k, total, first, drop)
    return tuple(
        kept(x, place, [own(i, cut)])[0]
        for i, (x, place) in enumerate(zip(leaves, places, strict=True))
    )


def _thinned(x, total):
    """About one in stride**2 keys of a leaf, spread over its first and its last axis."""
    stride = math.sqrt(total / np.clip(total // 32, min(2048, total), _SAMPLE))
    if x.ndim < 2:
        return order_key(x[:: math.ceil(stride**2)] if x.ndim else x)
    first = max(1, min(x.shape[0], round(stride)))
    return order_key(x[::first, ..., :: max(1, round(stride**2 / first))])


def _sampled(sample, size, total, tally, own, k, drop):
    """Ranks close to the cut, and well off it, as far as a sample that lies on many devices can tell."""
    wanted = sampled_ranks(size, total, k)

    def set_bit(i, ranks):
        raised = ranks | (np.uint32(1) << (31 - drop - i).astype(jnp.uint32))
        hits = [[part >= t for t in own(i, raised)] for i, part in enumerate(sample)]
        return jnp.where(tally(hits) >= wanted, raised, ranks)

    return apart(lax.fori_loop(0, 32 - drop, set_bit, (wanted & 0).astype(jnp.uint32)))
