"""Means per kernel of what has been read off its products, put to the kernel's own indices."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.programs.evaluation import observe
from jaxprune.programs.readings import Observed, Read, Record
from jaxprune.signals.arrangements import Arrangement, arrangement, indifferent
from jaxprune.signals.kernels import Mean
from jaxprune.signals.placement import Placement, beside, matrix, put
from jaxprune.types import Axes, Params

__all__ = ["Kernels", "matrices", "ratio", "read", "spread"]


class Kernels:
    """What has been read off a program, by kernel.

    Attributes:
      shapes: of the leaves of the parameters.
      axes: of the leaves.
      observed: what has been read.
    """

    def __init__(self, params: Params, observed: Observed) -> None:
        self.shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
        self.axes: list[Axes | None] = kernel_axes.of_follower(observed.follower, self.shapes)
        self.observed = observed

    def records(self) -> dict[int, list[Record]]:
        """Of the leaves of which all uses have been read, their uses."""
        found: dict[int, list[Record]] = {}
        for record in self.observed.records:
            if record.use.view.leaf not in self.observed.lost:
                found.setdefault(record.use.view.leaf, []).append(record)
        return found


def read(apply: Callable[..., Any], params: Params, batch: Any, reader: Read) -> Kernels:
    """Runs `apply(params, batch)` and reads something off each product of a kernel."""
    return Kernels(params, observe(apply, params, (batch,), reader))


def ratio(mean: Mean) -> jax.Array:
    """The mean itself; 0 where there was nothing to take it of."""
    behind = mean.total.ndim - mean.weight.ndim
    weight = mean.weight.reshape(*mean.weight.shape, *[1] * behind)
    return jnp.where(weight > 0, mean.total / jnp.where(weight > 0, weight, 1), 0)


def spread(kernels: Kernels, leaf: int, records: Sequence[Record], means: Sequence[Mean]) -> Mean:
    """The mean over the uses of a leaf, in a shape that broadcasts against it.

    Args:
      kernels: that it is one of.
      leaf: its index.
      records: of its uses.
      means: of each use; totals may have more axes behind, which stay.
    """
    shape = kernels.shapes[leaf]
    axes = kernels.axes[leaf]
    own = [arrangement(record) for record in records]
    same = indifferent(own, [record.statistic for record in records], shape)
    layers = axes.batch_axis if axes is not None else ()
    full = [axis for axis in range(len(shape)) if axis not in same or axis in layers]
    places = [beside(one, shape, full) for one in own]
    emitted = kernels.observed.emitted
    totals = [put(where, mean.total, emitted) for where, mean in zip(places, means, strict=True)]
    weights = [put(where, mean.weight, emitted) for where, mean in zip(places, means, strict=True)]
    return Mean(_sum(totals), _sum(weights))


def matrices(kernels: Kernels) -> dict[tuple[int, ...], Mean]:
    """One matrix per input: the leaves that it belongs to, and its mean, `[*layers, entries, entries]`."""
    leaves: dict[Any, list[int]] = {}
    for leaf, records in kernels.records().items():
        where = _of_matrix(records, kernels.shapes[leaf], kernels.axes[leaf])
        if where is not None:
            leaves.setdefault(where, []).append(leaf)
    return {
        tuple(own): _matrix(where, kernels.observed, kernels.shapes[own[0]], kernels.axes[own[0]])
        for where, own in leaves.items()
    }


# (which statistic, where it belongs, where its weight belongs, how often)
_Where = tuple[tuple[int, Placement, Placement, int], ...]


def _of_matrix(
    records: Sequence[Record], shape: tuple[int, ...], axes: Axes | None
) -> _Where | None:
    """Where the matrices of the uses of a leaf belong; `None` where its outputs have not one in common."""
    if axes is None or axes.in_axis is None or axes.out_axis is None:
        return None
    layers = axes.batch_axis
    outputs = axes.out_axis
    entries = [axis for axis in range(len(shape)) if axis not in (*layers, *outputs)]
    own = [arrangement(record, copies=2) for record in records]
    same = indifferent(own, [record.statistic for record in records], shape)
    if not same.issuperset(outputs) or not all(_is_matrix(one, entries, shape) for one in own):
        return None
    found: Counter[tuple[int, Placement, Placement]] = Counter()
    for record, one in zip(records, own, strict=True):
        weight = arrangement(record._replace(entries=()))
        where = matrix(one, shape, layers, entries), matrix(weight, shape, layers, ())
        found[record.statistic, *where] += 1
    once = len(found) == 1  # then it does not matter how often
    return tuple((*key, 1 if once else times) for key, times in found.items())


def _is_matrix(own: Arrangement, entries: Sequence[int], shape: tuple[int, ...]) -> bool:
    """Whether all inputs, and no layers or outputs, lie along the entries that were read."""
    shared = own.dimensions.shared
    for axis, size in enumerate(shape):
        index = own.indices[axis]
        read = [term for term in index.terms if term.dimension >= shared]
        if axis not in entries:
            if read:
                return False
        elif (
            len(read) < len(index.terms)
            or index.picks
            or own.free[axis]
            or math.prod(term.size for term in read) != size
        ):
            return False
    return True


def _matrix(where: _Where, observed: Observed, shape: tuple[int, ...], axes: Axes | None) -> Mean:
    assert axes is not None
    emitted = observed.emitted
    totals = [_times(times, put(place, emitted[s].total, emitted)) for s, place, _, times in where]
    weights = [
        _times(times, put(place, emitted[s].weight, emitted)) for s, _, place, times in where
    ]
    layers = [shape[axis] for axis in axes.batch_axis]
    outputs = axes.out_axis or ()
    kept = [size for axis, size in enumerate(shape) if axis not in outputs]
    entries = math.prod(kept) // max(math.prod(layers), 1)
    return Mean(_sum(totals).reshape(*layers, entries, entries), _sum(weights))


def _sum(arrays: Sequence[jax.Array]) -> jax.Array:
    return sum(arrays[1:], start=arrays[0])


def _times(count: int, array: jax.Array) -> jax.Array:
    return array if count == 1 else count * array
