"""Rules of operations that arrange axes anew: transposes, broadcasts, reshapes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune import programs
from jaxprune.structured.graph.labels import AxisLabels, Labels, common_refinement
from jaxprune.structured.graph.rules.rule import Kept, Rule, Step, again, cut, left, shapes_of

__all__ = ["RULES"]


def _transpose(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    return [tuple(inputs[0][i] for i in equation.params["permutation"])]


def _squeeze(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    squeezed = equation.params["dimensions"]
    return [tuple(axis for i, axis in enumerate(inputs[0]) if i not in squeezed)]


def _expand_dims(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    old_axes = iter(inputs[0])
    new_indices = equation.params["dimensions"]
    rank = len(shapes_of(equation)[0])
    return [tuple(labels.fresh(1) if i in new_indices else next(old_axes) for i in range(rank))]


def _broadcast(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    (shape,) = shapes_of(equation)
    axis_at = dict(zip(equation.params["broadcast_dimensions"], inputs[0], strict=True))
    return [
        tuple(
            axis_at[i] if i in axis_at and len(axis_at[i]) == size else labels.fresh(size)
            for i, size in enumerate(shape)
        )
    ]


def _broadcast_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return again(equation, arrays, shape=left(step.outputs[0], kept))


def _tile(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels a repetition: an axis of length 1 is broadcast; each index of a longer one goes everywhere."""
    pairs = zip(inputs[0], equation.params["reps"], strict=True)
    return [
        tuple(
            labels.fresh(count) if len(axis) == 1 and count != 1 else np.tile(axis, count)
            for axis, count in pairs
        )
    ]


def _tile_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    counts = [
        int(kept(output_axis).sum()) if len(input_axis) == 1 else count
        for input_axis, output_axis, count in zip(
            step.inputs[0], step.outputs[0], equation.params["reps"], strict=True
        )
    ]
    return again(equation, arrays, reps=tuple(counts))


def _reshape(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels a reshape: it is cut into the smallest runs of axes that have as many elements on both sides."""
    (shape,) = shapes_of(equation)
    axes = tuple(inputs[0][axis] for axis in programs.axes_as_read(equation))
    if 0 in shape:
        labels.pin(*axes)
        return [labels.fresh_like(shape, pinned=True)]
    output: list[Any] = [labels.fresh(1) if size == 1 else None for size in shape]
    open_inputs = [i for i, axis in enumerate(axes) if len(axis) > 1]
    open_outputs = [i for i, size in enumerate(shape) if size > 1]
    input_shape = [len(axis) for axis in axes]
    while open_inputs:
        input_run = [open_inputs.pop(0)]
        output_run = [open_outputs.pop(0)]
        while _run_size(input_run, input_shape) != _run_size(output_run, shape):
            if _run_size(input_run, input_shape) < _run_size(output_run, shape):
                input_run.append(open_inputs.pop(0))
            else:
                output_run.append(open_outputs.pop(0))
        new_axes = _regroup(labels, [axes[i] for i in input_run], [shape[i] for i in output_run])
        for i, axis in zip(output_run, new_axes, strict=True):
            output[i] = axis
    return [tuple(output)]


def _run_size(run: list[int], shape: Sequence[int]) -> int:
    return int(np.prod([shape[i] for i in run]))


def _regroup(labels: Labels, axes: list[np.ndarray], shape: list[int]) -> list[np.ndarray]:
    """Returns labels of the axes into which some axes with as many elements are reshaped."""
    refined_sizes = common_refinement([len(axis) for axis in axes], shape)
    if refined_sizes is None:
        labels.pin(*axes)
        return [labels.fresh(size, pinned=True) for size in shape]
    factors: list[Any] = [None] * len(refined_sizes)
    input_spans = _factor_spans([len(axis) for axis in axes], refined_sizes)
    for axis, (start, stop) in zip(axes, input_spans, strict=True):
        if stop == start + 1:
            factors[start] = axis
        else:
            factors[start:stop] = [labels.fresh(size) for size in refined_sizes[start:stop]]
            labels.merge(axis, factors[start:stop])
    new_axes = []
    for size, (start, stop) in zip(shape, _factor_spans(shape, refined_sizes), strict=True):
        if stop == start + 1:
            new_axes.append(factors[start])
        else:
            new_axes.append(labels.fresh(size))
            labels.merge(new_axes[-1], factors[start:stop])
    return new_axes


def _factor_spans(sizes: Sequence[int], refined_sizes: list[int]) -> list[tuple[int, int]]:
    """Returns, per size, from which to which factor (start, stop) it is the product.

    >>> _factor_spans([6, 4], [2, 3, 4])
    [(0, 2), (2, 3)]
    """
    spans = []
    start = 0
    for size in sizes:
        stop = start
        product = 1
        while product < size:
            product *= refined_sizes[stop]
            stop += 1
        spans.append((start, stop))
        start = stop
    return spans


def _reshape_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return again(equation, arrays, new_sizes=left(step.outputs[0], kept))


def _rev(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    reversed_indices = equation.params["dimensions"]
    return [
        tuple(axis[::-1] if i in reversed_indices else axis for i, axis in enumerate(inputs[0]))
    ]


def _iota(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    return [labels.fresh_like(shapes_of(equation)[0])]


def _iota_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return [cut(programs.bind(equation, arrays)[0], step.outputs[0], kept)]


RULES: dict[str, Rule] = {
    "transpose": Rule(_transpose),
    "squeeze": Rule(_squeeze),
    "expand_dims": Rule(_expand_dims),
    "broadcast_in_dim": Rule(_broadcast, _broadcast_again),
    "reshape": Rule(_reshape, _reshape_again),
    "tile": Rule(_tile, _tile_again),
    "rev": Rule(_rev),
    "iota": Rule(_iota, _iota_again),
}
