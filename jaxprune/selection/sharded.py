"""Counting scores where they lie: a device may hold a part of each leaf only, and a few integers travel."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec

from jaxprune.selection.counting import (
    PROBES,
    Cut,
    find_cut,
    masks_of_cuts,
    sample_positions,
    separate_ties,
)
from jaxprune.selection.mask_counts import count_marked
from jaxprune.selection.ranks import order_key, to_rank, zero_bits

__all__ = ["on_shards", "top_of_parts"]


_REPLICATED = PartitionSpec()


_SAMPLE = 65536  # scores in the sample of a contest, at most


# For each leaf and each of its dimensions, the names of the mesh axes that cut it.
_MeshAxes = Sequence[Sequence[tuple[str, ...]]]


def on_shards(
    rule: Callable, leaves: tuple[Array, ...], k: Array, k_spec: PartitionSpec = _REPLICATED
) -> tuple[Array, ...]:
    """Applies a rule to the local shards of leaves on an Explicit mesh; masks lie as they do."""
    shardings = [jax.typeof(leaf).sharding for leaf in leaves]
    specs = tuple(sharding.spec for sharding in shardings)
    mesh_axes = [
        [(names,) if isinstance(names, str) else tuple(names or ()) for names in spec]
        for spec in specs
    ]
    mesh = next(sharding.mesh for sharding in shardings if sharding.mesh.explicit_axes)
    return jax.shard_map(
        lambda leaves, k: rule(leaves, k, mesh_axes),
        mesh=mesh,
        in_specs=(specs, k_spec),
        out_specs=specs,
        axis_names=set(mesh.explicit_axes) if mesh.auto_axes else set(),
        check_vma=False,
    )(leaves, k)


def top_of_parts(
    leaves: Sequence[Array],
    k: Array,
    mesh_axes: _MeshAxes | None = None,
    contest: tuple[int, ...] | str = "all",
) -> tuple[Array, ...]:
    """Marks the k largest of leaves as they lie, of which this device may hold a part only.

    Args:
      leaves: the scores; inside `shard_map`, this device's part of them.
      k: int32, how many to keep in each contest.
      mesh_axes: for each leaf and dimension, the mesh axes that cut it; `None`: the partitioner knows.
      contest: over `"all"` leaves together, within `"each"` leaf, or within each slice along some axes.
    """
    is_each = contest == "each"
    contest_axes = contest if isinstance(contest, tuple) else None
    known_mesh_axes = mesh_axes or [((),) * leaf.ndim for leaf in leaves]
    sizes, places = _sizes_and_places(leaves, known_mesh_axes, contest_axes, is_each)
    total = np.array(sizes, np.int32) if is_each else sum(sizes)

    def tally(masks_by_leaf: Sequence[Sequence[Array]]) -> Array:
        """Adds up masks, a list of them per leaf, to int32[probes, *contests]."""
        counts_by_mesh_axes: dict[tuple[str, ...], dict[int, Array]] = {}  # yet to be added over
        for i, (masks, leaf_mesh_axes) in enumerate(
            zip(masks_by_leaf, known_mesh_axes, strict=True)
        ):
            inner_axes = _inner_axes(masks[0], contest_axes)
            if mesh_axes:
                counts = jnp.stack(count_marked(masks, inner_axes))
            else:  # the partitioner makes this an all-reduce; it gathers for the variadic form
                counts = jnp.stack([jnp.sum(mask, inner_axes, jnp.int32) for mask in masks])
            if contest_axes is not None:
                counts = jnp.expand_dims(counts, [axis + 1 for axis in inner_axes])
            across = tuple(
                itertools.chain.from_iterable(leaf_mesh_axes[axis] for axis in inner_axes)
            )
            counts_by_mesh_axes.setdefault(across, {})[i] = counts
        if not is_each:
            sums = [
                _sum_over_devices(sum(counts.values()), across)
                for across, counts in counts_by_mesh_axes.items()
            ]
            return jnp.stack(sums).sum(0)
        leaf_order = list(itertools.chain.from_iterable(counts_by_mesh_axes.values()))
        sums = [
            _sum_over_devices(jnp.stack(list(counts.values()), 1), across)
            for across, counts in counts_by_mesh_axes.items()
        ]
        return jnp.concatenate(sums, 1)[:, np.argsort(leaf_order)]

    def of_leaf(i: int, cut: Cut) -> Cut:
        return Cut(cut.key[i], cut.last[i]) if is_each else cut

    def count_kept(cuts: Cut) -> Array:
        # Without the barrier XLA hoists keys and positions, copies of all scores, out of loops.
        scores, positions, cuts = lax.optimization_barrier((leaves, places, cuts))
        probes = [Cut(key, last) for key, last in zip(*cuts, strict=True)]
        return tally(
            [
                masks_of_cuts(leaf, place, [of_leaf(i, probe) for probe in probes])
                for i, (leaf, place) in enumerate(zip(scores, positions, strict=True))
            ]
        )

    drop = min(zero_bits(leaf.dtype) for leaf in leaves)
    first = None
    if contest_axes is None:
        contest_sizes = sizes if is_each else [sum(sizes)] * len(leaves)
        samples = [
            to_rank(_thinned(leaf, contest_size), drop)
            for leaf, contest_size in zip(leaves, contest_sizes, strict=True)
        ]
        sample_sizes = [
            sample.size * math.prod(map(lax.axis_size, leaf_mesh_axes))
            for sample, leaf_mesh_axes in zip(samples, known_mesh_axes, strict=True)
        ]
        sample_size = np.array(sample_sizes, np.int32) if is_each else sum(sample_sizes)

        def first_thresholds(k: Array) -> Array:
            positions = sample_positions(sample_size, total, k)
            return _ranks_at(positions, samples, tally, is_each, drop)

        first = first_thresholds

    shape = jax.eval_shape(tally, [[leaf] * PROBES for leaf in leaves]).shape[1:]
    # Plus zero: inside shard_map, loop carries must be seen to vary over devices as the leaves do.
    k = jnp.full(shape, k) + sum(
        jnp.sum(order_key(leaf.ravel()[:0]), dtype=jnp.int32) for leaf in leaves
    )
    cut = find_cut(count_kept, k, total, first, drop)
    return tuple(
        masks_of_cuts(leaf, place, [of_leaf(i, cut)])[0]
        for i, (leaf, place) in enumerate(zip(leaves, places, strict=True))
    )


def _inner_axes(leaf: Array, contest_axes: tuple[int, ...] | None) -> tuple[int, ...]:
    """The axes along which scores of a leaf compete."""
    return tuple(range(leaf.ndim)) if contest_axes is None else contest_axes


def _sizes_and_places(
    leaves: Sequence[Array],
    mesh_axes: _MeshAxes,
    contest_axes: tuple[int, ...] | None,
    is_each: bool,
) -> tuple[list[int], list[Array]]:
    """How many scores of each whole leaf compete, and the positions of this device's part of it.

    A position is that of the first score, followed by its steps along the dimensions (`masks_of_cuts`).
    """
    sizes: list[int] = []
    places = []
    for leaf, leaf_mesh_axes in zip(leaves, mesh_axes, strict=True):
        shape = [
            part_size * lax.axis_size(dim_mesh_axes)
            for part_size, dim_mesh_axes in zip(leaf.shape, leaf_mesh_axes, strict=True)
        ]
        inner_axes = _inner_axes(leaf, contest_axes)
        steps = [
            math.prod(shape[axis] for axis in inner_axes if axis > i) * (i in inner_axes)
            for i in range(leaf.ndim)
        ]
        corner = sum(
            lax.axis_index(leaf_mesh_axes[i]) * leaf.shape[i] * steps[i] for i in range(leaf.ndim)
        )
        start = 0 if is_each else sum(sizes)
        places.append(jnp.array([start + corner, *steps], jnp.int32))
        sizes.append(math.prod(shape[axis] for axis in inner_axes))
    return sizes, places


def _sum_over_devices(counts: Any, mesh_axes: tuple[str, ...]) -> Array:
    return lax.psum(counts, mesh_axes) if mesh_axes else counts


def _thinned(leaf: Array, total: int) -> Array:
    """About one in stride**2 keys of a leaf, spread over its first and its last axis."""
    stride = math.sqrt(total / np.clip(total // 32, min(2048, total), _SAMPLE))
    if leaf.ndim < 2:
        return order_key(leaf[:: math.ceil(stride**2)] if leaf.ndim else leaf)
    row_stride = max(1, min(leaf.shape[0], round(stride)))
    return order_key(leaf[::row_stride, ..., :: max(1, round(stride**2 / row_stride))])


def _ranks_at(
    positions: Array,
    samples: Sequence[Array],
    tally: Callable[[Sequence[Sequence[Array]]], Array],
    is_each: bool,
    drop: int,
) -> Array:
    """The ranks at some positions of the sorted sample, which may lie on many devices: bit by bit.

    Args:
      positions: from the best down, int32[probes, *contests].
      samples: ranks of some scores of each leaf.
      tally: adds up masks of the samples.
      is_each: whether each leaf is a contest of its own.
      drop: how many low bits of the keys carry nothing.
    """

    def set_bit(i: Array, ranks: Array) -> Array:
        # The bit is part of the rank if enough of the sample lie at or above what it would make.
        raised = ranks | (np.uint32(1) << (31 - drop - i).astype(jnp.uint32))
        masks = [
            [sample >= threshold for threshold in (raised[:, i] if is_each else raised)]
            for i, sample in enumerate(samples)
        ]
        return jnp.where(tally(masks) >= positions, raised, ranks)

    no_bits = (positions & 0).astype(jnp.uint32)
    return separate_ties(lax.fori_loop(0, 32 - drop, set_bit, no_bits))
