"""Means per kernel of the statistics of its products, arranged along the kernel's own axes."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.programs.evaluation import observe
from jaxprune.programs.readings import Observations, Read, Record
from jaxprune.signals.arrangements import Arrangement, arrangement, indifferent_axes
from jaxprune.signals.kernels import Mean
from jaxprune.signals.placement import Placement, broadcast_placement, matrix_placement, scatter
from jaxprune.types import Axes, Params

__all__ = ["Kernels", "input_matrices", "mean_over_uses", "ratio", "read_kernels"]


class Kernels:
    """Statistics that were read off a program, by kernel.

    Attributes:
      shapes: of the leaves of the parameters.
      axes: input, output and batch axes of the leaves; `None` for a leaf that is no kernel.
      observed: what has been read.
    """

    def __init__(self, params: Params, observed: Observations) -> None:
        self.shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
        self.axes: list[Axes | None] = kernel_axes.of_follower(observed.follower, self.shapes)
        self.observed = observed

    def records(self) -> dict[int, list[Record]]:
        """Returns by index of a leaf its uses, of leaves all of whose uses have been read."""
        records_by_leaf: dict[int, list[Record]] = {}
        for record in self.observed.records:
            if record.use.view.leaf not in self.observed.lost:
                records_by_leaf.setdefault(record.use.view.leaf, []).append(record)
        return records_by_leaf


def read_kernels(apply: Callable[..., Any], params: Params, batch: Any, reader: Read) -> Kernels:
    """Runs `apply(params, batch)` and reads a statistic off each product of a kernel."""
    return Kernels(params, observe(apply, params, (batch,), reader))


def ratio(mean: Mean) -> jax.Array:
    """Returns total over weight; 0 where the weight is 0."""
    trailing_axes = mean.total.ndim - mean.weight.ndim
    weight = mean.weight.reshape(*mean.weight.shape, *[1] * trailing_axes)
    return jnp.where(weight > 0, mean.total / jnp.where(weight > 0, weight, 1), 0)


def mean_over_uses(
    kernels: Kernels, leaf: int, records: Sequence[Record], means: Sequence[Mean]
) -> Mean:
    """Returns the mean over the uses of a leaf, in a shape that broadcasts against it.

    Args:
      kernels: statistics of all kernels.
      leaf: index of the leaf.
      records: of its uses.
      means: of each use; totals may have more axes behind, which stay.
    """
    shape = kernels.shapes[leaf]
    axes = kernels.axes[leaf]
    arrangements = [arrangement(record) for record in records]
    uniform_axes = indifferent_axes(arrangements, [record.statistic for record in records], shape)
    layer_axes = axes.batch_axis if axes is not None else ()
    full_axes = [
        axis for axis in range(len(shape)) if axis not in uniform_axes or axis in layer_axes
    ]
    placements = [
        broadcast_placement(use_arrangement, shape, full_axes) for use_arrangement in arrangements
    ]
    emitted = kernels.observed.emitted
    totals = [
        scatter(placement, mean.total, emitted)
        for placement, mean in zip(placements, means, strict=True)
    ]
    weights = [
        scatter(placement, mean.weight, emitted)
        for placement, mean in zip(placements, means, strict=True)
    ]
    return Mean(_sum_of(totals), _sum_of(weights))


def input_matrices(kernels: Kernels) -> dict[tuple[int, ...], Mean]:
    """Returns the mean matrix of each input, `[*layers, entries, entries]`, by the leaves that share it."""
    leaves_by_placement: dict[Any, list[int]] = {}
    for leaf, records in kernels.records().items():
        placement = _matrix_placements(records, kernels.shapes[leaf], kernels.axes[leaf])
        if placement is not None:
            leaves_by_placement.setdefault(placement, []).append(leaf)
    return {
        tuple(leaf_indices): _mean_of_matrices(
            placement,
            kernels.observed,
            kernels.shapes[leaf_indices[0]],
            kernels.axes[leaf_indices[0]],
        )
        for placement, leaf_indices in leaves_by_placement.items()
    }


# (which statistic, where it belongs, where its weight belongs, how often)
_Where = tuple[tuple[int, Placement, Placement, int], ...]


def _matrix_placements(
    records: Sequence[Record], shape: tuple[int, ...], axes: Axes | None
) -> _Where | None:
    """Returns where the matrices of the uses of a leaf belong; `None` if its outputs do not share one."""
    if axes is None or axes.in_axis is None or axes.out_axis is None:
        return None
    layer_axes = axes.batch_axis
    output_axes = axes.out_axis
    entry_axes = [axis for axis in range(len(shape)) if axis not in (*layer_axes, *output_axes)]
    arrangements = [arrangement(record, copies=2) for record in records]
    uniform_axes = indifferent_axes(arrangements, [record.statistic for record in records], shape)
    if not uniform_axes.issuperset(output_axes) or not all(
        _is_matrix(use_arrangement, entry_axes, shape) for use_arrangement in arrangements
    ):
        return None
    count_by_placement: Counter[tuple[int, Placement, Placement]] = Counter()
    for record, use_arrangement in zip(records, arrangements, strict=True):
        weight_arrangement = arrangement(record._replace(entries=()))
        placements = (
            matrix_placement(use_arrangement, shape, layer_axes, entry_axes),
            matrix_placement(weight_arrangement, shape, layer_axes, ()),
        )
        count_by_placement[record.statistic, *placements] += 1
    is_only_one = len(count_by_placement) == 1  # then it does not matter how often
    return tuple((*key, 1 if is_only_one else times) for key, times in count_by_placement.items())


def _is_matrix(
    use_arrangement: Arrangement, entries: Sequence[int], shape: tuple[int, ...]
) -> bool:
    """Whether all inputs, and no layers or outputs, lie along the entries that were read."""
    number_of_shared = use_arrangement.dimensions.shared
    for axis, size in enumerate(shape):
        index = use_arrangement.indices[axis]
        entry_terms = [term for term in index.terms if term.dimension >= number_of_shared]
        if axis not in entries:
            if entry_terms:
                return False
        elif (
            len(entry_terms) < len(index.terms)
            or index.picks
            or use_arrangement.free[axis]
            or math.prod(term.size for term in entry_terms) != size
        ):
            return False
    return True


def _mean_of_matrices(
    placements: _Where, observed: Observations, shape: tuple[int, ...], axes: Axes | None
) -> Mean:
    assert axes is not None
    emitted = observed.emitted
    totals = [
        _scale_by_count(times, scatter(placement, emitted[statistic].total, emitted))
        for statistic, placement, _, times in placements
    ]
    weights = [
        _scale_by_count(times, scatter(placement, emitted[statistic].weight, emitted))
        for statistic, _, placement, times in placements
    ]
    layer_sizes = [shape[axis] for axis in axes.batch_axis]
    output_axes = axes.out_axis or ()
    kept_sizes = [size for axis, size in enumerate(shape) if axis not in output_axes]
    number_of_entries = math.prod(kept_sizes) // max(math.prod(layer_sizes), 1)
    return Mean(
        _sum_of(totals).reshape(*layer_sizes, number_of_entries, number_of_entries),
        _sum_of(weights),
    )


def _sum_of(arrays: Sequence[jax.Array]) -> jax.Array:
    return sum(arrays[1:], start=arrays[0])


def _scale_by_count(count: int, array: jax.Array) -> jax.Array:
    return array if count == 1 else count * array
