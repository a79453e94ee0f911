"""Exact selection of the k largest scores by counting: no sort, no gather.

`counting` finds the cut, `searches` reads the scores of one device where they are, `sharded` counts parts on
any mesh of devices where they lie. Here is who competes with whom.
"""

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

from jaxprune.programs import interpreter
from jaxprune.selection.deferred import Computed, Replacements, is_deferring, stored
from jaxprune.selection.ranks import top_by_comparison
from jaxprune.selection.replaceable import replaceable
from jaxprune.selection.searches import masks_in_place
from jaxprune.selection.sharded import on_shards, top_of_parts

__all__ = ["SEARCHES", "compare_slices", "top", "top_along", "top_each"]

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
      leaves: arrays of any shape and real dtype, fewer than 2**31 scores in all; compared as float32, in
        which integers from 2**24 on and neighbouring float64 may be equal.
      k: how many to keep, a Python int or an int32 scalar (it may be traced), clamped to what
        there is.
      among: per leaf a bool array of those that may be marked, or `None` for all of them.

    Returns:
      One bool array per leaf, k True in all, each sharded as its leaf.

    >>> top([jnp.array([3.0, 1.0]), jnp.array([[2.0], [3.0]])], 2)
    [Array([ True, False], dtype=bool), Array([[False],
           [ True]], dtype=bool)]
    """
    leaves = tuple(jnp.asarray(leaf) for leaf in leaves)
    total = sum(leaf.size for leaf in leaves)
    _check_countable("top", total)
    if not total:
        return [jnp.zeros_like(leaf, bool) for leaf in leaves]
    search = _top_to_replace if is_deferring() else _top
    return list(search(leaves, _clamp(k, total), tuple(among or [None] * len(leaves))))


def top_each(
    leaves: Sequence[Array],
    ks: Sequence[int | Array],
    among: Sequence[Array | None] | None = None,
) -> list[Array]:
    """Marks the k largest scores of each leaf; every leaf is a contest of its own.

    The masks are those of `top` leaf by leaf, but all leaves are searched side by side, in one program
    instead of one for each leaf.

    Args:
      leaves: arrays of any shape and real dtype, fewer than 2**31 scores each; compared as float32.
      ks: how many to keep of each, Python ints or int32 scalars, clamped to what there is.
      among: per leaf a bool array of those that may be marked, or `None` for all of them.

    Returns:
      One bool array per leaf, each sharded as its leaf.

    >>> [m.astype(int) for m in top_each([jnp.array([3.0, 1.0, 2.0]), jnp.array([1.0, 1.0])], [2, 1])]
    [Array([1, 0, 1], dtype=int32), Array([1, 0], dtype=int32)]
    """
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    for leaf in leaves:
        _check_countable("top_each", leaf.size)
    masks = [jnp.zeros_like(leaf, bool) for leaf in leaves]
    filled = [i for i, leaf in enumerate(leaves) if leaf.size]
    if filled:
        sizes = np.array([leaves[i].size for i in filled], np.int32)
        wanted = [
            k if isinstance(k, Array) else min(max(k, 0), 2**31 - 1)
            for k in map(ks.__getitem__, filled)
        ]
        counts = jnp.clip(jnp.stack([jnp.asarray(k, jnp.int32) for k in wanted]), 0, sizes)
        allowed = [None] * len(leaves) if among is None else among
        search = _top_each_to_replace if is_deferring() else _top_each
        filled_masks = search(
            tuple(leaves[i] for i in filled), counts, tuple(allowed[i] for i in filled)
        )
        for i, mask in zip(filled, filled_masks, strict=True):
            masks[i] = mask
    return masks


def _check_countable(who: str, total: int) -> None:
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
      scores: an array of any real dtype with at least one axis; compared as float32.
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
    given_axes = [axis] if isinstance(axis, int) else axis
    axes = tuple(sorted(normalize_axis_index(i, scores.ndim) for i in given_axes))
    if not scores.size or not axes:
        mask = jnp.broadcast_to(k, scores.shape) > 0
        return mask if among is None else mask & among
    contest_size = math.prod(scores.shape[i] for i in axes)
    _check_countable("top_along", contest_size)
    counts = _clamp(k, contest_size)
    if counts.ndim:
        counts_shape = [1 if i in axes else size for i, size in enumerate(scores.shape)]
        counts = jnp.broadcast_to(counts, counts_shape)
    return compare_slices(scores, counts, among, axes)


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


def _select_among(
    select: Callable[..., tuple[Array, ...]],
    leaves: tuple[Array, ...],
    k: Array,
    among: tuple[Array | None, ...],
) -> tuple[Array, ...]:
    """Applies `select` to leaves, and marks nothing that may not be marked."""
    masks = select(tuple(map(_barred, leaves, among)), k)
    pairs = zip(masks, among, strict=True)
    return tuple(mask if allowed is None else mask & allowed for mask, allowed in pairs)


@replaceable()
def _top(leaves: tuple[Array, ...], k: Array, among: tuple[Array | None, ...]) -> tuple[Array, ...]:
    return _select_among(_top_of_all, leaves, k, among)


def _top_of_all(leaves: tuple[Array, ...], k: Array) -> tuple[Array, ...]:
    """Marks the k largest of all leaves, which may lie on a mesh of devices."""
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in leaves]
    if any(mesh.explicit_axes for mesh in meshes):
        return on_shards(top_of_parts, leaves, k)
    if any(mesh.auto_axes for mesh in meshes):
        return top_of_parts(leaves, k)
    return tuple(map(stored, masks_in_place(leaves, k, together=True)))


def _where_read(together: bool) -> Callable[[Any, list[Any]], list[Any]]:
    """Runs a search of a program whose scores are computed where they are read (`selection.deferred`)."""

    def search(equation: Any, inputs: list[Any]) -> list[Any]:
        leaf_count = len(equation.outvars)
        leaves = inputs[:leaf_count]
        k = stored(inputs[leaf_count])
        among = inputs[leaf_count + 1 :]
        if len(among) not in (0, leaf_count):  # it is not told which leaves have none
            return interpreter.bind(equation, [stored(value) for value in inputs])
        if not among:
            return list(masks_in_place(leaves, k, together))
        barred = [
            Computed(_barred, (value, allowed), value.shape, _barred_dtype(value.dtype))
            for value, allowed in zip(leaves, among, strict=True)
        ]
        masks = masks_in_place(barred, k, together)
        return [
            Computed(lax.bitwise_and, (mask, allowed), mask.shape, mask.dtype)
            for mask, allowed in zip(masks, among, strict=True)
        ]

    return search


def _barred_dtype(dtype: Any) -> Any:
    """The dtype of scores in which NaN may stand."""
    return dtype if jnp.issubdtype(dtype, jnp.floating) else np.dtype("float32")


# Searches in a program that is traced for `run_deferred`, which runs those of `_where_read` in their place.
# They mark the same in few equations for each leaf; where nobody replaces them, as in loops, they are run.


@replaceable()
def _top_to_replace(
    leaves: tuple[Array, ...], k: Array, among: tuple[Array | None, ...]
) -> tuple[Array, ...]:
    def search_joined(leaves: tuple[Array, ...], k: Array) -> tuple[Array, ...]:
        joined = jnp.concatenate([leaf.ravel().astype(jnp.float32) for leaf in leaves])
        ends = np.cumsum([leaf.size for leaf in leaves])
        masks = jnp.split(_top((joined,), k, (None,))[0], ends[:-1])
        return tuple(mask.reshape(leaf.shape) for mask, leaf in zip(masks, leaves, strict=True))

    return _select_among(search_joined, leaves, k, among)


@replaceable()
def _top_each_to_replace(
    leaves: tuple[Array, ...], ks: Array, among: tuple[Array | None, ...]
) -> tuple[Array, ...]:
    return tuple(
        _top((leaf,), k, (allowed,))[0] for leaf, k, allowed in zip(leaves, ks, among, strict=True)
    )


@replaceable(static=["axes"])
def compare_slices(scores: Array, k: Array, among: Array | None, axes: tuple[int, ...]) -> Array:
    """Marks the k largest scores of each slice along some axes, as `top_along` asks for it."""

    def select(leaves: tuple[Array, ...], k: Array) -> tuple[Array, ...]:
        return (_top_of_slices(leaves[0], k, axes),)

    return _select_among(select, (scores,), k, (among,))[0]


def _top_of_slices(scores: Array, k: Array, axes: tuple[int, ...]) -> Array:
    """Marks the k largest of each slice along axes, of one leaf that may lie on a mesh of devices."""
    sharding = jax.typeof(scores).sharding
    is_short = len(axes) == 1 and scores.shape[axes[0]] <= _SHORT
    if not sharding.mesh.explicit_axes:
        if is_short:
            return top_by_comparison(scores, k, axes[0])
        mesh_axes = None if sharding.mesh.auto_axes else [[()] * scores.ndim]
        return top_of_parts((scores,), k, mesh_axes, contest=axes)[0]

    def compare(leaves: tuple[Array, ...], k: Array, _: Any) -> tuple[Array, ...]:
        return (top_by_comparison(leaves[0], k, axes[0]),)

    is_whole = is_short and sharding.spec[axes[0]] is None
    rule = compare if is_whole else partial(top_of_parts, contest=axes)
    if not k.ndim:
        return on_shards(rule, (scores,), k)[0]
    entries = enumerate(sharding.spec)
    k_spec = PartitionSpec(*(None if axis in axes else names for axis, names in entries))
    k = jax.sharding.reshard(k, NamedSharding(sharding.mesh, k_spec))
    return on_shards(rule, (scores,), k, k_spec)[0]


@replaceable()
def _top_each(
    leaves: tuple[Array, ...], ks: Array, among: tuple[Array | None, ...]
) -> tuple[Array, ...]:
    return _select_among(_top_of_each, leaves, ks, among)


def _top_of_each(leaves: tuple[Array, ...], ks: Array) -> tuple[Array, ...]:
    """Marks the k largest of each leaf; leaves may lie on a mesh of devices."""
    meshes = [jax.typeof(leaf).sharding.mesh for leaf in leaves]
    if any(mesh.explicit_axes for mesh in meshes):
        return on_shards(partial(top_of_parts, contest="each"), leaves, ks)
    if any(mesh.auto_axes for mesh in meshes):
        return top_of_parts(leaves, ks, contest="each")
    return tuple(map(stored, masks_in_place(leaves, ks, together=False)))


SEARCHES: Replacements = {
    _top: _where_read(together=True),
    _top_to_replace: _where_read(together=True),
    _top_each: _where_read(together=False),
    _top_each_to_replace: _where_read(together=False),
}
