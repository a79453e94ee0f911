"""Rules of computed indices: lookups and slices, and writing at them."""

from typing import Any

from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.rules.rule import Kept, Rule, Step, again, left, shapes_of

__all__ = ["RULES"]


def _gather(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels windows of an operand at computed indices.

    Axes that windows span whole are free, as are those of which each index has start indices of its own.
    """
    dimension_numbers = equation.params["dimension_numbers"]
    (shape,) = shapes_of(equation)
    operand, starts = inputs
    outside = (*dimension_numbers.collapsed_slice_dims, *dimension_numbers.operand_batching_dims)
    window_axes = [i for i in range(len(operand)) if i not in outside]
    output: list[Any] = [None] * len(shape)
    for i, output_index in zip(window_axes, dimension_numbers.offset_dims, strict=True):
        if equation.params["slice_sizes"][i] == len(operand[i]):
            output[output_index] = operand[i]
        else:
            labels.pin(operand[i])
            output[output_index] = labels.fresh(shape[output_index], pinned=True)
    labels.pin(*(operand[i] for i in dimension_numbers.collapsed_slice_dims), starts[-1])
    batch = (dimension_numbers.operand_batching_dims, dimension_numbers.start_indices_batching_dims)
    for operand_index, starts_index in zip(*batch, strict=True):
        labels.tie(operand[operand_index], starts[starts_index])
    row_axes = [i for i in range(len(shape)) if i not in dimension_numbers.offset_dims]
    for output_index, axis in zip(row_axes, starts[:-1], strict=True):
        output[output_index] = axis
    return [tuple(output)]


def _gather_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    slice_sizes = equation.params["slice_sizes"]
    batch_axes = equation.params["dimension_numbers"].operand_batching_dims
    new_sizes = []
    for i, (slice_size, axis, left_size) in enumerate(
        zip(slice_sizes, step.inputs[0], left(step.inputs[0], kept), strict=True)
    ):
        is_spanned = slice_size == len(axis) and i not in batch_axes
        new_sizes.append(left_size if is_spanned else slice_size)
    return again(equation, arrays, slice_sizes=tuple(new_sizes))


def _dynamic_slice(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    output = []
    for axis, size in zip(inputs[0], shapes_of(equation)[0], strict=True):
        if len(axis) != size:
            labels.pin(axis)
            axis = labels.fresh(size, pinned=True)
        output.append(axis)
    return [tuple(output)]


def _dynamic_slice_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return again(equation, arrays, slice_sizes=left(step.outputs[0], kept))


def _dynamic_update_slice(
    labels: Labels, equation: Any, inputs: list[AxisLabels]
) -> list[AxisLabels]:
    for operand_axis, update_axis in zip(inputs[0], inputs[1], strict=True):
        if len(operand_axis) == len(update_axis):
            labels.tie(operand_axis, update_axis)
        else:
            labels.pin(operand_axis, update_axis)
    return [inputs[0]]


def _scatter(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels updates that are written at computed indices of an operand: `x.at[...]`, sums over segments.

    Axes that windows span whole are free, as are those of which each index has indices of its own. Rows of
    updates may go where they are only added: rows of zeros are nothing.
    """
    dimension_numbers = equation.params["dimension_numbers"]
    operand, indices, updates = inputs
    outside = (*dimension_numbers.inserted_window_dims, *dimension_numbers.operand_batching_dims)
    window_axes = [i for i in range(len(operand)) if i not in outside]
    for operand_index, update_index in zip(
        window_axes, dimension_numbers.update_window_dims, strict=True
    ):
        if len(operand[operand_index]) == len(updates[update_index]):
            labels.tie(operand[operand_index], updates[update_index])
        else:
            labels.pin(operand[operand_index], updates[update_index])
    labels.pin(*(operand[i] for i in dimension_numbers.inserted_window_dims), indices[-1])
    batch = list(
        zip(
            dimension_numbers.operand_batching_dims,
            dimension_numbers.scatter_indices_batching_dims,
            strict=True,
        )
    )
    for operand_index, indices_index in batch:
        labels.tie(operand[operand_index], indices[indices_index])
    row_axes = [i for i in range(len(updates)) if i not in dimension_numbers.update_window_dims]
    batch_axes = [indices_index for _, indices_index in batch]
    only_adds = equation.primitive.name in ("scatter-add", "scatter-sub")
    for indices_index, update_index in enumerate(row_axes):
        labels.tie(indices[indices_index], updates[update_index])
        if indices_index not in batch_axes and not only_adds:
            labels.pin(indices[indices_index])
    return [operand]


RULES: dict[str, Rule] = {
    "gather": Rule(_gather, _gather_again),
    "dynamic_slice": Rule(_dynamic_slice, _dynamic_slice_again),
    "dynamic_update_slice": Rule(_dynamic_update_slice),
    **dict.fromkeys(
        (
            "scatter",
            "scatter-add",
            "scatter-max",
            "scatter-min",
            "scatter-mul",
            "scatter-sub",
        ),
        Rule(_scatter),
    ),
}
