"""Representative units of a border: one unit per group stays and carries the constants of the others.

A padded convolution makes of a channel that is constant one that is constant but at its border, which no bias
can take up. So one unit stays, and the kernel that reads it takes up the kernels of all others.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.arrays.precision import at_least_float32
from jaxprune.structured.graph.graph import Graph
from jaxprune.structured.graph.replay import watched
from jaxprune.structured.graph.rules import Step

__all__ = ["BorderUnits", "NewKernel", "border_units"]

_LEAST_SHARE = 0.05  # of the group's largest constant: a smaller one would need large weights


class NewKernel(NamedTuple):
    """What a kernel becomes where it reads a representative unit.

    Attributes:
      leaf_index: of the kernel among the parameters.
      axis: of the kernel, along which units enter.
      unit_index: of the representative unit along this axis.
      weights: what the kernel becomes there.
    """

    leaf_index: int
    axis: int
    unit_index: int
    weights: np.ndarray


class BorderUnits(NamedTuple):
    """The units that stay to carry the constants of all other dead units of their groups.

    Attributes:
      units: equivalence classes of the graph's solution that must stay.
      kernels: what the kernels that read them become.
    """

    units: list[int]
    kernels: list[NewKernel]


class _Reader(NamedTuple):
    """A convolution that reads constants, and does not see them beyond its borders.

    Attributes:
      channel_axis: of its input.
      classes: equivalence classes of its channels, in the graph's solution.
      leaf_index: of its kernel among the parameters.
      kernel_axis: of the kernel, along which channels enter.
    """

    channel_axis: int
    classes: np.ndarray
    leaf_index: int
    kernel_axis: int


def border_units(
    graph: Graph, masked_leaves: list[Any], dead_mask: np.ndarray, inputs: Any, tolerance: float
) -> BorderUnits:
    r"""Finds one unit per group that can stand for all its dead units where padded convolutions read them.

    A dead unit $i$ is a constant $c_i$; a convolution makes $c_i W_i$ of it where it sees it, and less at a
    border. With $W_j \leftarrow \sum_i c_i W_i / c_j$ one dead unit $j$ gives what all of them gave, at the
    border too.

    Args:
      graph: of the function, from `trace`.
      masked_leaves: leaves of the parameters, masked.
      dead_mask: boolean per equivalence class: it is a unit without inputs.
      inputs: of the function.
      tolerance: the largest deviation of a constant, relative to the largest element of the channels.
    """
    readers = {}
    for step in graph.tape.steps:
        reader = _reader_of(graph, step)
        if reader is not None and dead_mask[reader.classes].any():
            readers[step.writes[0]] = reader
    if not readers:
        return BorderUnits([], [])

    @jax.jit
    def measure(masked_leaves: list[Any], inputs: Any) -> dict[int, tuple[Any, Any]]:
        """Returns for each reader the mean of each channel, and whether it is constant."""
        measured = {}

        def watch(step: Step, values: list[Any]) -> None:
            reader = readers.get(step.writes[0]) if step.writes else None
            if reader is not None:
                channels = jnp.moveaxis(values[0], reader.channel_axis, -1)
                channels = channels.reshape(-1, channels.shape[-1])
                channels = channels.astype(at_least_float32(channels.dtype))
                mean = channels.mean(0, keepdims=True)
                threshold = tolerance * jnp.abs(channels).max()
                measured[step.writes[0]] = mean[0], jnp.abs(channels - mean).max(0) <= threshold

        watched(graph.program, [*masked_leaves, *jax.tree.leaves(inputs)], graph.tape, watch)
        return measured

    constants = jax.tree.map(np.asarray, measure(masked_leaves, inputs))
    units: list[int] = []
    kernels: list[NewKernel] = []
    for group in graph.groups:
        dead_units = np.asarray([unit for unit in group.units if dead_mask[unit]])
        readers_of_group = {
            key: reader
            for key, reader in readers.items()
            if np.isin(dead_units, reader.classes).any()
        }
        choice = _choose(dead_units, readers_of_group, constants, masked_leaves)
        if choice is not None:
            unit, new_kernels = choice
            units.append(unit)
            kernels += new_kernels
    return BorderUnits(units, kernels)


def _choose(
    dead_units: np.ndarray,
    readers: dict[int, _Reader],
    constants: dict[int, Any],
    masked_leaves: list[Any],
) -> tuple[int, list[NewKernel]] | None:
    """Returns the representative of a group and its kernels; `None` if none is needed, or none can be.

    Args:
      dead_units: equivalence classes of the group's units without inputs.
      readers: the convolutions that read them.
      constants: for each reader the mean of each channel, and whether it is constant.
      masked_leaves: leaves of the parameters, masked.
    """
    # The size of a unit's constant beside the largest one, where they are smallest among the readers.
    relative_sizes = np.full(len(dead_units), np.inf)
    reads = []
    is_needed = False
    for key, reader in readers.items():
        mean, constant_mask = constants[key]
        position = {unit: index for index, unit in enumerate(reader.classes.tolist())}
        channels = np.asarray([position.get(unit, -1) for unit in dead_units.tolist()])
        if (channels < 0).any() or not constant_mask[channels].all():
            return None
        kernel = np.asarray(masked_leaves[reader.leaf_index], np.float64)
        kernel = np.moveaxis(kernel, reader.kernel_axis, 0)
        total = np.tensordot(mean[channels].astype(float), kernel[channels], 1)
        reads.append((reader, channels, total, mean))
        if total.any():
            is_needed = True
            sizes = np.abs(mean[channels])
            relative_sizes = np.minimum(relative_sizes, sizes / sizes.max())
    if not is_needed or relative_sizes.max() < _LEAST_SHARE:
        return None
    best = int(relative_sizes.argmax())
    new_kernels = []
    for reader, channels, total, mean in reads:
        channel = channels[best]
        weights = total / float(mean[channel]) if total.any() else total
        new_kernels.append(NewKernel(reader.leaf_index, reader.kernel_axis, int(channel), weights))
    return int(dead_units[best]), new_kernels


def _reader_of(graph: Graph, step: Step) -> _Reader | None:
    """Returns an equation as a padded convolution whose kernel is a parameter that nobody else reads."""
    params = step.equation.params
    name = step.equation.primitive.name
    if name != "conv_general_dilated" or params["feature_group_count"] > 1:
        return None
    if not any(map(any, params["padding"])) and set(params["lhs_dilation"]) <= {1}:
        return None
    leaf_values = graph.tape.inputs[: len(graph.axes)]
    all_reads = [value_index for other in graph.tape.steps for value_index in other.reads]
    kernel_value = step.reads[1]
    if kernel_value not in leaf_values or all_reads.count(kernel_value) > 1:
        return None
    spec = params["dimension_numbers"]
    channel_axis = spec.lhs_spec[1]
    classes = graph.solution.class_of[step.inputs[0][channel_axis]]
    return _Reader(channel_axis, classes, leaf_values.index(kernel_value), spec.rhs_spec[1])
