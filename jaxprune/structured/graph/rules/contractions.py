"""Rules of matrix products and convolutions."""

from typing import Any

from jaxprune import programs
from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.rules.rule import Kept, Rule, Step, again, shapes_of

__all__ = ["RULES"]


def _dot(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    (left_summed, right_summed), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = inputs
    labels.tie_all([left[i] for i in left_summed], [right[i] for i in right_summed])
    labels.tie_all([left[i] for i in left_batch], [right[i] for i in right_batch])
    left_free = [left[i] for i in range(len(left)) if i not in (*left_summed, *left_batch)]
    right_free = [right[i] for i in range(len(right)) if i not in (*right_summed, *right_batch)]
    return [(*(left[i] for i in left_batch), *left_free, *right_free)]


def _ragged_dot(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels runs of an axis of the first operand, each with a matrix of its own: their lengths stay."""
    left, right, run_lengths = inputs[:3]
    labels.pin(*(axis for axes in inputs[2:] for axis in axes))
    dimension_numbers = equation.params.get("ragged_dot_dimension_numbers")
    if dimension_numbers is None:  # the plain form: [rows, k] x [groups, k, n]
        left_summed = right_summed = (1,)
        left_batch = right_batch = ()
        ragged_index = 0
        expert_indices = (0,)
    else:
        (left_summed, right_summed), (left_batch, right_batch) = (
            dimension_numbers.dot_dimension_numbers
        )
        (ragged_index,) = dimension_numbers.lhs_ragged_dimensions
        expert_indices = dimension_numbers.rhs_group_dimensions
    labels.pin(left[ragged_index], *(right[i] for i in expert_indices))
    labels.tie_all([left[i] for i in left_summed], [right[i] for i in right_summed])
    labels.tie_all([left[i] for i in left_batch], [right[i] for i in right_batch])
    left_free = [i for i in range(len(left)) if i not in (*left_summed, *left_batch)]
    right_free = [
        i for i in range(len(right)) if i not in (*right_summed, *right_batch, *expert_indices)
    ]
    is_summed = ragged_index in left_summed
    if len(run_lengths) > 1:  # runs of each index of these axes, which come before the ragged one
        kind = left_free if ragged_index in left_free else left_summed if is_summed else []
        labels.pin(*(left[i] for i in [*left_batch, *kind][: len(run_lengths) - 1]))
    run_axes = (
        [labels.fresh(run_lengths[len(run_lengths) - 1].size, pinned=True)] if is_summed else []
    )
    left_axes = (left[i] for i in (*left_batch, *left_free))
    return [(*run_axes, *left_axes, *(right[i] for i in right_free))]


def _conv(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> Any:
    params = equation.params
    (shape,) = shapes_of(equation)
    x, kernel = inputs
    spec = params["dimension_numbers"]
    if params["batch_group_count"] > 1:
        labels.pin(*x, *kernel)
        return [labels.fresh_like(shape, pinned=True)]
    output: list[Any] = [None] * len(shape)
    output[spec.out_spec[0]] = x[spec.lhs_spec[0]]
    output[spec.out_spec[1]] = kernel[spec.rhs_spec[0]]
    for i in range(2, len(shape)):
        labels.pin(x[spec.lhs_spec[i]], kernel[spec.rhs_spec[i]])
        output[spec.out_spec[i]] = labels.fresh(shape[spec.out_spec[i]], pinned=True)
    input_channels = x[spec.lhs_spec[1]]
    output_channels = kernel[spec.rhs_spec[0]]
    group_count = params["feature_group_count"]
    if group_count == 1:
        labels.tie(input_channels, kernel[spec.rhs_spec[1]])
        return [tuple(output)]
    groups = labels.fresh(group_count)
    labels.merge(input_channels, [groups, kernel[spec.rhs_spec[1]]])
    labels.merge(output_channels, [groups, labels.fresh(len(output_channels) // group_count)])
    return [tuple(output)], groups


def _conv_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    if step.more is None:
        return programs.bind(equation, arrays)
    return again(equation, arrays, feature_group_count=int(kept(step.more).sum()))


RULES: dict[str, Rule] = {
    "dot_general": Rule(_dot),
    **dict.fromkeys(("ragged_dot", "ragged_dot_general"), Rule(_ragged_dot)),
    "conv_general_dilated": Rule(_conv, _conv_again),
}
