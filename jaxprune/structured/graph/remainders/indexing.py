"""Remainders of lookups and writes at computed indices, and of random numbers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.structured.graph.remainders.arrangements import Arrangement
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
from jaxprune.structured.graph.rules.rule import again

__all__ = ["INDEXING"]


def _gather(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Remainders]:
    params = equation.params
    operand, indices = values
    dimension_numbers = params["dimension_numbers"]
    axes = step.inputs[0]
    output_axes = step.outputs[0]
    outside_axes = (
        *dimension_numbers.collapsed_slice_dims,
        *dimension_numbers.operand_batching_dims,
    )
    window_axes = [axis for axis in range(len(axes)) if axis not in outside_axes]
    spanned_axis_of = {  # axes of the output along which windows span the operand whole
        output_axis: axis
        for axis, output_axis in zip(window_axes, dimension_numbers.offset_dims, strict=True)
        if params["slice_sizes"][axis] == len(axes[axis])
    }
    row_axes = [
        axis for axis in range(len(output_axes)) if axis not in dimension_numbers.offset_dims
    ]
    batch = zip(
        dimension_numbers.operand_batching_dims,
        dimension_numbers.start_indices_batching_dims,
        strict=True,
    )
    # Axes of which each index has start indices of its own.
    batch_axis_of = {row_axes[indices_axis]: operand_axis for operand_axis, indices_axis in batch}
    operand_axis_of = {**spanned_axis_of, **batch_axis_of}
    fill = programs.fill_of_lookup(equation)

    def is_kept(content: Any) -> bool:
        """Whether places outside of the operand hold the same number."""
        return is_number(content) and (fill is None or bool(content == fill))

    remainders: Remainders = {}
    if EVERYWHERE in operand.remainders and is_kept(operand.remainders[EVERYWHERE]):
        remainders[EVERYWHERE] = operand.remainders[EVERYWHERE]
    for region in regions_of(places.cut(output_axes)):
        if region <= operand_axis_of.keys() and region & batch_axis_of.keys():
            content = operand.at(frozenset(operand_axis_of[axis] for axis in region))
            if not (is_zero(content) and is_kept(content)):
                remainders[region] = (
                    content if is_kept(content) else Lost("a lookup of removed units")
                )
            continue
        if not region <= spanned_axis_of.keys():
            contents = [
                operand.at(source) for source in (EVERYWHERE, *regions_of(places.cut(axes)))
            ]
            is_same = all(is_kept(content) and content == contents[0] for content in contents)
            content = contents[0] if is_same else Lost("removed units are places to look up")
            if not is_zero(content):
                remainders[region] = content
            continue
        content = operand.at(frozenset(spanned_axis_of[axis] for axis in region))
        if isinstance(content, Lost) or is_kept(content):
            if not is_zero(content):
                remainders[region] = content
            continue
        if is_number(content):
            content = np.full((1,) * len(axes), content)
        spanned_axes = spanned_axis_of.values()
        full_sizes = [
            size if axis in spanned_axes else len(axes[axis])
            for axis, size in enumerate(content.shape)
        ]
        slice_sizes = tuple(
            size if axis in spanned_axes else params["slice_sizes"][axis]
            for axis, size in enumerate(full_sizes)
        )

        def look_up(
            array: Any, indices: Any, full_sizes: Any = full_sizes, slice_sizes: Any = slice_sizes
        ) -> Any:
            full_array = jnp.broadcast_to(array, full_sizes)
            return again(equation, [full_array, indices], slice_sizes=slice_sizes)[0]

        remainders[region] = evaluate_or_shape(look_up, content, indices.array)
    return [remainders]


def _dynamic_slice(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    value = values[0]
    starts = [start.array for start in values[1:]]
    sizes = equation.params["slice_sizes"]

    def change(array: Any, *starts: Any) -> Any:
        new_sizes = [
            left_size if left_size == 1 or len(axis) == size else size
            for left_size, axis, size in zip(array.shape, step.inputs[0], sizes, strict=True)
        ]
        return again(equation, [array, *starts], slice_sizes=tuple(new_sizes))[0]

    remainders: Remainders = {}
    if EVERYWHERE in value.remainders:
        remainders[EVERYWHERE] = value.remainders[EVERYWHERE]
    for region in regions_of(places.cut(step.outputs[0])):
        content = value.at(region)
        if not is_zero(content):
            remainders[region] = (
                evaluate_or_shape(change, content, *starts) if is_array(content) else content
            )
    return [remainders]


def _dynamic_update_slice(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    operand, update = values[:2]
    starts = [start.array for start in values[2:]]
    dtype = equation.outvars[0].aval.dtype
    remainders: Remainders = {}
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        contents = (operand.at(region), update.at(region))
        lost_contents = [content for content in contents if isinstance(content, Lost)]
        if all(map(is_number, contents)) and contents[0] == contents[1]:
            if not region or not is_zero(contents[0]):
                remainders[region] = contents[0]
        elif lost_contents:
            remainders[region] = lost_contents[0]
        elif region:
            sizes = [places.sizes(axes, region) for axes in step.inputs[:2]]

            def write(operand: Any, update: Any, *starts: Any, sizes: Any = sizes) -> Any:
                operand_array = broadcast_content(operand, sizes[0], len(sizes[0]), dtype)
                update_array = broadcast_content(update, sizes[1], len(sizes[1]), dtype)
                return programs.bind(equation, [operand_array, update_array, *starts])[0]

            remainders[region] = evaluate_or_shape(write, *contents, *starts)
    return [remainders]


def _draw(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Remainders]:
    """Returns the remainders of random numbers: all are drawn, those in removed places too."""
    output_axes = step.outputs[0]
    cut_axes = places.cut(output_axes)
    if not cut_axes:
        return [{}]

    def draw(*operands: Any) -> Any:
        return programs.bind(equation, operands)[0]

    def take_region(array: Any, region: Region) -> Any:
        return places.taken(array, output_axes, region)

    drawn_numbers = evaluate_or_shape(draw, *(value.array for value in values))
    return [
        {
            region: evaluate_or_shape(partial(take_region, region=region), drawn_numbers)
            for region in regions_of(cut_axes)
        }
    ]


INDEXING: dict[str, Arrangement] = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "random_bits": _draw,
}
