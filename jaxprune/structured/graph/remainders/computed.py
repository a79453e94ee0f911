"""Remainders of scatters, ragged products, collectives, linear solves, and draws with parameters."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxprune import programs
from jaxprune.structured.graph.remainders.values import (
    EVERYWHERE,
    Leak,
    Lost,
    Places,
    Remainders,
    Value,
    broadcast_content,
    evaluate_or_shape,
    is_zero,
    regions_of,
)
from jaxprune.structured.graph.rules import Step

__all__ = ["COMPUTED"]

Computed = Callable[[Any, Sequence[Value], Step, Places, Leak], list[Remainders]]


def _scatter(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[Remainders]:
    """Returns the remainders of updates at computed indices.

    Zeros that are added are nothing, and others are written as they are.
    """
    name = equation.primitive.name
    dimension_numbers = equation.params["dimension_numbers"]
    operand, indices, updates = values
    operand_axes, _, update_axes = step.inputs
    outside_axes = (
        *dimension_numbers.inserted_window_dims,
        *dimension_numbers.operand_batching_dims,
    )
    window_axes = [axis for axis in range(len(operand_axes)) if axis not in outside_axes]
    update_axis_of = dict(zip(window_axes, dimension_numbers.update_window_dims, strict=True))
    row_axes = [
        axis for axis in range(len(update_axes)) if axis not in dimension_numbers.update_window_dims
    ]
    row_axis_of = dict(zip(range(len(row_axes)), row_axes, strict=True))
    batch_axes = zip(
        dimension_numbers.operand_batching_dims,
        dimension_numbers.scatter_indices_batching_dims,
        strict=True,
    )
    for operand_axis, indices_axis in batch_axes:
        update_axis_of[operand_axis] = row_axis_of[indices_axis]
    summed_axes = places.cut(update_axes) - frozenset(update_axis_of.values())
    only_adds = name in ("scatter-add", "scatter-sub")
    lost = Lost(f"{name} meets what removed units leave behind")
    remainders: Remainders = {}
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        update_region = frozenset(update_axis_of[axis] for axis in region if axis in update_axis_of)
        removed_updates = [
            updates.at(update_region | summed_region) for summed_region in regions_of(summed_axes)
        ]
        is_closed = all(map(is_zero, removed_updates)) and (only_adds or not removed_updates)
        if not is_closed and not region:
            leak(lost.reason, tuple(update_axes[axis] for axis in summed_axes))
        if not region:
            continue
        contents = (operand.at(region), updates.at(update_region))
        lost_contents = [content for content in contents if isinstance(content, Lost)]
        if not is_closed or lost_contents:
            remainders[region] = lost_contents[0] if lost_contents else lost
        elif not all(map(is_zero, contents)):
            is_batched = region & frozenset(dimension_numbers.operand_batching_dims)
            sizes = (
                places.sizes(operand_axes, region),
                places.sizes(update_axes, update_region),
            )
            remainders[region] = (
                lost if is_batched else _write(equation, indices.array, contents, sizes)
            )
    return [remainders]


def _write(
    equation: Any, indices: Any, contents: Sequence[Any], sizes: Sequence[Sequence[int]]
) -> Any:
    """Returns what a scatter makes of the contents of its operand and its updates, of the sizes given."""
    dtype = equation.outvars[0].aval.dtype

    def run(indices: Any, *contents: Any) -> Any:
        operand, updates = (
            broadcast_content(content, size, len(size), dtype)
            for content, size in zip(contents, sizes, strict=True)
        )
        return programs.bind(equation, [operand, indices, updates])[0]

    return evaluate_or_shape(run, indices, *contents)


def _ragged_dot(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[Remainders]:
    """Returns the remainders of a product of runs of rows, each with a matrix of its own.

    Zeros on one side of what is summed over are nothing.
    """
    output_axes = step.outputs[0]
    output_ids = {id(axis) for axis in output_axes}
    remainders: Remainders = {}
    lost = Lost("a ragged product meets what removed units leave behind")
    summed_axes = [
        frozenset(i for i in places.cut(axes) if id(axes[i]) not in output_ids)
        for axes in step.inputs[:2]
    ]
    is_closed = any(
        own_summed
        and all(
            is_zero(value.at(input_region))
            for input_region in regions_of(places.cut(axes))
            if input_region & own_summed
        )
        for value, axes, own_summed in zip(values, step.inputs, summed_axes, strict=False)
    )
    if any(summed_axes) and not is_closed:
        leak(lost.reason, tuple(step.inputs[0][i] for i in summed_axes[0]))
    for region in regions_of(places.cut(output_axes)):
        region_ids = {id(output_axes[i]) for i in region}
        is_zero_region = False
        for value, axes in zip(values[:2], step.inputs[:2], strict=True):
            region_axes = frozenset(i for i in places.cut(axes) if id(axes[i]) in region_ids)
            is_zero_region |= bool(region_axes) and all(
                is_zero(value.at(input_region))
                for input_region in regions_of(places.cut(axes))
                if input_region >= region_axes
            )
        if not is_zero_region:
            remainders[region] = lost
    return [remainders]


def _collective(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[Remainders]:
    """Returns the remainders of reductions over devices, or over array axes under `vmap(axis_name=)`."""
    name = equation.primitive.name
    reduced_axes = {axis for axis in equation.params.get("axes", ()) if isinstance(axis, int)}
    outputs: list[Remainders] = []
    for value, axes, output_axes in zip(values, step.inputs, step.outputs, strict=True):
        input_axis_of = [i for i in range(len(axes)) if i not in reduced_axes]
        summed_axes = places.cut(axes) & frozenset(reduced_axes)
        remainders: Remainders = {}
        for region in [EVERYWHERE, *regions_of(places.cut(output_axes))]:
            input_region = frozenset(input_axis_of[i] for i in region)
            contents = [
                value.at(input_region | summed_region) for summed_region in regions_of(summed_axes)
            ]
            is_closed = all(map(is_zero, contents)) and (name.startswith("psum") or not contents)
            lost = Lost(f"{name} meets what removed units leave behind")
            if not region and not is_closed:
                leak(lost.reason, tuple(axes[i] for i in summed_axes))
            elif region and not (is_closed and is_zero(value.at(input_region))):
                remainders[region] = lost
        outputs.append(remainders)
    return outputs


def _zero_where_operand_is(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[Remainders]:
    """Returns the remainders of an operation that gives zero where one operand, mostly the last, is zero."""
    name = equation.primitive.name
    lost = Lost(f"{name} meets what removed units leave behind")
    operand_index = 0 if name.startswith("select_and_scatter") else len(values) - 1
    operand = values[operand_index]
    return [
        {
            region: lost
            for region in regions_of(places.cut(step.outputs[0]))
            if not is_zero(operand.at(region))
        }
    ]


def _all_lost(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[Remainders]:
    """Returns the remainders of an operation that has no outputs, or draws a number for each place."""
    lost = Lost("random numbers are drawn for removed units")
    return [dict.fromkeys(regions_of(places.cut(axes)), lost) for axes in step.outputs]


COMPUTED: dict[str, Computed] = {
    **dict.fromkeys(
        ("scatter", "scatter-add", "scatter-max", "scatter-min", "scatter-mul", "scatter-sub"),
        _scatter,
    ),
    **dict.fromkeys(("ragged_dot", "ragged_dot_general"), _ragged_dot),
    **dict.fromkeys(
        ("pbroadcast", "pmax", "pmin", "ppermute", "psum", "psum_invariant"), _collective
    ),
    **dict.fromkeys(
        ("select_and_scatter", "select_and_scatter_add", "triangular_solve", "tridiagonal_solve"),
        _zero_where_operand_is,
    ),
    **dict.fromkeys(
        ("debug_callback", "debug_print", "random_gamma", "rng_bit_generator"), _all_lost
    ),
}
