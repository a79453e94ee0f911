"""Remainders of slices and joins: concatenation, slices, splits, padding."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.structured.graph.remainders.arrangements import Arrangement, move_remainders
from jaxprune.structured.graph.remainders.values import (
    EVERYWHERE,
    Lost,
    Places,
    Region,
    Remainders,
    Value,
    broadcast_content,
    evaluate_or_shape,
    is_array,
    is_number,
    is_zero,
    regions_of,
)
from jaxprune.structured.graph.rules import Step

__all__ = ["SLICING"]


def _concatenate(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    joined_axis = equation.params["dimension"]
    dtype = equation.outvars[0].aval.dtype
    remainders: Remainders = {}
    if all(EVERYWHERE in value.remainders for value in values):
        numbers = [value.remainders[EVERYWHERE] for value in values]
        if all(number == numbers[0] for number in numbers):
            remainders[EVERYWHERE] = numbers[0]
    for region in regions_of(places.cut(step.outputs[0])):
        contents = []
        sizes = []
        for value, axes in zip(values, step.inputs, strict=True):
            size = places.sizes(axes, region)
            if size[joined_axis]:
                contents.append(value.at(region & places.cut(axes)))
                sizes.append(size)
        content = _join_contents(contents, sizes, joined_axis, dtype)
        if not is_zero(content):
            remainders[region] = content
    return [remainders]


def _join_contents(
    contents: Sequence[Any], sizes: Sequence[Sequence[int]], joined_axis: int, dtype: Any
) -> Any:
    """Returns contents beside each other along an axis as one content."""
    first_content = contents[0]
    for content in contents:
        if isinstance(content, Lost):
            return content
    if all(is_number(content) and content == first_content for content in contents):
        return first_content
    rank = len(sizes[0])
    arrays = [content for content in contents if not is_number(content)]
    common_sizes = [
        max([1, *(array.shape[axis] for array in arrays)]) if axis != joined_axis else None
        for axis in range(rank)
    ]

    def join(*contents: Any) -> Any:
        pieces = []
        for content, size in zip(contents, sizes, strict=True):
            shape = [
                size[axis] if common_size is None else common_size
                for axis, common_size in enumerate(common_sizes)
            ]
            pieces.append(broadcast_content(content, shape, rank, dtype))
        return lax.concatenate(pieces, joined_axis)

    return evaluate_or_shape(join, *contents)


def _slice(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Remainders]:
    params = equation.params
    axes = step.inputs[0]
    strides = params["strides"] or (1,) * len(axes)
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    slices = [slice(*bound) for bound in bounds]
    return [_slice_remainders(values[0], axes, step.outputs[0], places, slices)]


def _split(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Remainders]:
    split_axis = equation.params["axis"]
    axes = step.inputs[0]
    start = 0
    outputs = []
    for output_axes, size in zip(step.outputs, equation.params["sizes"], strict=True):
        bounds = slice(start, start + size)
        slices = [bounds if axis == split_axis else None for axis in range(len(axes))]
        outputs.append(_slice_remainders(values[0], axes, output_axes, places, slices))
        start += size
    return outputs


def _slice_remainders(
    value: Value, axes: Any, output_axes: Any, places: Places, slices: Sequence[slice | None]
) -> Remainders:
    """Returns the remainders of a part of a value.

    Args:
      value: the whole.
      axes: labels of the whole.
      output_axes: labels of the part.
      places: which are left.
      slices: of each axis, what the part has of it when nothing is removed; `None`: all.
    """
    remainders: Remainders = {}
    if EVERYWHERE in value.remainders:
        remainders[EVERYWHERE] = value.remainders[EVERYWHERE]
    for region in regions_of(places.cut(output_axes)):
        content = value.at(region)
        if not is_array(content):
            if not is_zero(content):
                remainders[region] = content
            continue
        taken_indices: dict[int, np.ndarray] = {}
        for axis, axis_slice in enumerate(slices):
            if axis_slice is None or content.shape[axis] == 1:
                continue
            alive = places.alive(axes[axis])
            in_region = ~alive if axis in region else alive
            index_in_region = np.cumsum(in_region) - 1
            taken_indices[axis] = index_in_region[axis_slice][in_region[axis_slice]]

        def take(array: Any, taken_indices: dict[int, np.ndarray] = taken_indices) -> Any:
            for axis, indices in taken_indices.items():
                array = jnp.take(array, indices, axis=axis)
            return array

        remainders[region] = evaluate_or_shape(take, content)
    return remainders


def _stack(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Remainders]:
    stacked_axis = equation.params["axis"]
    dtype = equation.outvars[0].aval.dtype
    remainders: Remainders = {}
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        input_region = frozenset(i - (i > stacked_axis) for i in region)
        contents = [value.at(input_region) for value in values]
        if lost_contents := [content for content in contents if isinstance(content, Lost)]:
            remainders[region] = lost_contents[0]
        elif all(is_number(content) and content == contents[0] for content in contents):
            if not region or not is_zero(contents[0]):
                remainders[region] = contents[0]
        elif region:

            def stack(*contents: Any) -> Any:
                rank = len(step.inputs[0])
                arrays = [broadcast_content(x, [None] * rank, rank, dtype) for x in contents]
                return jnp.stack(jnp.broadcast_arrays(*arrays), stacked_axis)

            remainders[region] = evaluate_or_shape(stack, *contents)
    return [remainders]


def _unstack(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    stacked_axis = equation.params["axis"]
    input_axis_of = [axis for axis in range(len(step.inputs[0])) if axis != stacked_axis]
    outputs = []
    for slice_index, output_axes in enumerate(step.outputs):
        slice_step = step._replace(outputs=[output_axes])

        def change(array: Any, slice_index: int = slice_index) -> Any:
            index = slice_index if array.shape[stacked_axis] > 1 else 0
            return lax.index_in_dim(array, index, stacked_axis, keepdims=False)

        outputs.append(move_remainders(values[0], slice_step, places, input_axis_of, change))
    return outputs


def _pad(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Remainders]:
    value, fill = values
    output_axes = step.outputs[0]
    dtype = equation.outvars[0].aval.dtype
    fill_content = fill.at(EVERYWHERE)
    remainders: Remainders = {}
    for region in [EVERYWHERE, *regions_of(places.cut(output_axes))]:
        content = value.at(region & places.cut(step.inputs[0]))
        sizes = places.sizes(step.inputs[0], region)
        if 0 in sizes:  # what was removed is padding alone
            content = fill_content
        if is_number(content) and is_number(fill_content) and content == fill_content:
            if not region or not is_zero(content):
                remainders[region] = content
        elif isinstance(content, Lost):
            remainders[region] = content
        elif region:
            padding = _region_padding(
                equation.params["padding_config"], output_axes, region, places
            )

            def pad(content: Any, fill: Any, sizes: Any = sizes, padding: Any = padding) -> Any:
                array = broadcast_content(content, sizes, len(sizes), dtype)
                return lax.pad(array, jnp.asarray(fill, dtype), padding)

            remainders[region] = evaluate_or_shape(pad, content, fill_content)
    return [remainders]


def _region_padding(
    config: Any, output_axes: Any, region: Region, places: Places
) -> list[tuple[int, int, int]]:
    """Returns how much padding (low, high, interior) a region has along each axis."""
    padding = []
    for axis, (low, high, interior) in enumerate(config):
        alive = places.alive(output_axes[axis])
        in_region = ~alive if axis in region else alive
        if interior or low < 0 or high < 0:  # an axis of which everything stays
            padding.append((low, high, interior))
        else:
            high_start = len(in_region) - high
            padding.append((int(in_region[:low].sum()), int(in_region[high_start:].sum()), 0))
    return padding


SLICING: dict[str, Arrangement] = {
    "concatenate": _concatenate,
    "pad": _pad,
    "slice": _slice,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
}
