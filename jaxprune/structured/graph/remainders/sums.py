"""Remainders of reductions and products, and what these owe to units that were removed."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.structured.graph.labels import AxisLabels
from jaxprune.structured.graph.remainders.values import (
    EVERYWHERE,
    Leak,
    Lost,
    Places,
    Region,
    Remainders,
    Value,
    broadcast_content,
    evaluate_or_shape,
    is_number,
    is_zero,
    is_zero_product,
    lost_among,
    regions_of,
)
from jaxprune.structured.graph.rules import Step

__all__ = ["SUMS"]

# What is owed to the output: the contributions of removed units; and the remainders of each output.
_SumRemainders = tuple[list[Any], list[Remainders]]
_LOGICAL = ("reduce_and", "reduce_or", "reduce_xor")
_NEUTRAL = {"reduce_prod": 1, "reduce_and": True, "reduce_or": False, "reduce_xor": False}
_SEES_INFINITY = Lost(
    "a sum over the units sees what is infinite, or no number, for zeros of removed ones",
    is_finite=False,
)
_NAMES = {
    "reduce_max": "a maximum",
    "reduce_min": "a minimum",
    "reduce_prod": "a product",
    "reduce_and": "an all()",
    "reduce_or": "an any()",
}


def _reduce(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> _SumRemainders:
    name = equation.primitive.name
    reduced_axes = equation.params["axes"]
    value = values[0]
    axes = step.inputs[0]
    output_axes = step.outputs[0]
    input_axis_of = [axis for axis in range(len(axes)) if axis not in reduced_axes]
    summed_axes = places.cut(axes) & frozenset(reduced_axes)
    owed: list[Any] = []
    remainders: Remainders = {}
    for region in [EVERYWHERE, *regions_of(places.cut(output_axes))]:
        input_region = frozenset(input_axis_of[axis] for axis in region)
        contributions: list[Any] = []
        if region and name != "reduce_sum" and summed_axes:
            contents = [
                value.at(input_region | summed_region)
                for summed_region in (EVERYWHERE, *regions_of(summed_axes))
            ]
            if all(is_number(content) and content == contents[0] for content in contents):
                sizes = places.sizes(axes, input_region)
                contribution = _contribution(equation, contents[0], sizes, EVERYWHERE, False)
                remainders |= {region: contribution} if not is_zero(contribution) else {}
                continue
        for removed in [EVERYWHERE, *regions_of(summed_axes)]:
            if not (region or removed):
                continue
            content = value.at(input_region | removed)
            positive = value.positive and not region
            sizes = places.sizes(axes, input_region | removed)
            contribution = _contribution(equation, content, sizes, removed, positive)
            if isinstance(contribution, Lost) and not region:
                leak(contribution.reason, tuple(axes[axis] for axis in removed))
            elif contribution is not None:
                contributions.append(contribution)
        if not region:
            owed = contributions
            continue
        content = _total_content(contributions, equation.outvars[0].aval.dtype)
        if not is_zero(content):
            remainders[region] = content
    if name in ("reduce_max", "reduce_min", "reduce_and", "reduce_or"):
        number = value.remainders.get(EVERYWHERE)
        if number is not None and not summed_axes:
            remainders[EVERYWHERE] = number
    elif name == "reduce_sum" and not owed and is_zero(value.remainders.get(EVERYWHERE)):
        remainders[EVERYWHERE] = np.zeros((), equation.outvars[0].aval.dtype)[()]
    return owed, [remainders]


def _contribution(equation: Any, content: Any, sizes: Any, removed: Region, positive: bool) -> Any:
    """Returns what a region adds to a reduction; `None`: nothing.

    Args:
      equation: the reduction.
      content: of the region.
      sizes: of the region.
      removed: of the axes that are reduced, those along which its places were removed.
      positive: whether all that is reduced besides is at least zero.
    """
    name = equation.primitive.name
    reduced_axes = equation.params["axes"]
    if isinstance(content, Lost):
        return content
    if name == "reduce_sum":
        if is_zero(content):
            return None
        if is_number(content) and not np.isfinite(content):
            return _SEES_INFINITY
        if is_number(content):
            return (content * math.prod(sizes[i] for i in reduced_axes)).astype(content.dtype)

        def reduce_array(x: Any) -> Any:
            repeats = math.prod(sizes[i] for i in reduced_axes if x.shape[i] == 1)
            output = programs.bind(equation, [x])[0]
            return output if repeats == 1 else output * np.asarray(repeats).astype(output.dtype)

        return evaluate_or_shape(reduce_array, content)
    if removed:
        neutral = _NEUTRAL.get(name)
        never_largest = name == "reduce_max" and positive and is_number(content) and content <= 0
        if never_largest:
            return None
        if is_number(content) and (content == neutral or _is_never_taken(name, content)):
            return None
        return Lost(
            f"{_NAMES.get(name, name)} over the units ({name}) sees the zeros of removed ones"
        )
    if name == "reduce_prod" and not (is_number(content) and content in (0, 1)):
        full_sizes = [sizes[i] if i in reduced_axes else None for i in range(len(sizes))]
        dtype = equation.invars[0].aval.dtype

        def reduce_full(x: Any) -> Any:
            array = broadcast_content(x, full_sizes, len(full_sizes), dtype)
            return programs.bind(equation, [array])[0]

        return evaluate_or_shape(reduce_full, content)
    if is_number(content):
        return content
    return evaluate_or_shape(lambda x: programs.bind(equation, [x])[0], content)


def _is_never_taken(name: str, content: Any) -> bool:
    """Whether a maximum or a minimum never takes a number where there is another."""
    if name not in ("reduce_max", "reduce_min") or content.dtype.kind in "biu":
        return False
    return bool(content == (-np.inf if name == "reduce_max" else np.inf))


def _total_content(contributions: Sequence[Any], dtype: Any) -> Any:
    """Returns the sum of contributions; of reductions that are no sums there is one at most."""
    lost = lost_among(contributions)
    if lost:
        return lost
    if not contributions:
        return np.zeros((), dtype)[()]
    if len(contributions) == 1:
        return contributions[0]
    if all(map(is_number, contributions)):
        return sum(contributions[1:], contributions[0])
    return evaluate_or_shape(
        lambda *arrays: sum(arrays[1:], jnp.asarray(arrays[0], dtype)), *contributions
    )


class _PairedAxes(NamedTuple):
    """Which axes of its two operands a product pairs.

    Attributes:
      summed: pairs that are summed over.
      output_axes: of each axis of the output, the axis of either operand, or `None`.
      windows: axes of each operand of which a window needs all positions.
    """

    summed: list[tuple[int, int]]
    output_axes: list[tuple[int | None, int | None]]
    windows: tuple[Sequence[int], Sequence[int]] = ((), ())


def _paired_axes(equation: Any, step: Step) -> _PairedAxes:
    if equation.primitive.name == "conv_general_dilated":
        spec = equation.params["dimension_numbers"]
        output_axes: list[tuple[int | None, int | None]] = [(None, None)] * len(spec.out_spec)
        output_axes[spec.out_spec[0]] = (spec.lhs_spec[0], None)
        output_axes[spec.out_spec[1]] = (None, spec.rhs_spec[0])
        windows = (spec.lhs_spec[2:], spec.rhs_spec[2:])
        return _PairedAxes([(spec.lhs_spec[1], spec.rhs_spec[1])], output_axes, windows)
    (left_summed, right_summed), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left_rank, right_rank = map(len, step.inputs)
    left_free = [axis for axis in range(left_rank) if axis not in (*left_summed, *left_batch)]
    right_free = [axis for axis in range(right_rank) if axis not in (*right_summed, *right_batch)]
    output_axes = [*zip(left_batch, right_batch, strict=True)]
    output_axes += [(axis, None) for axis in left_free] + [(None, axis) for axis in right_free]
    return _PairedAxes(list(zip(left_summed, right_summed, strict=True)), output_axes)


def _product(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> _SumRemainders:
    if equation.params.get("feature_group_count", 1) > 1:
        return _grouped_conv(equation, values, step, places, leak)
    pairs = _paired_axes(equation, step)
    left, right = step.inputs
    cut_pairs = [
        pair_index
        for pair_index, (left_axis, right_axis) in enumerate(pairs.summed)
        if places.cut((left[left_axis],)) or places.cut((right[right_axis],))
    ]
    owed: list[Any] = []
    remainders: Remainders = {}
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        contributions = []
        for removed_pairs in [EVERYWHERE, *regions_of(cut_pairs)]:
            if not (region or removed_pairs):
                continue
            operand_regions = [
                _operand_region(pairs, side, region, removed_pairs) for side in (0, 1)
            ]
            contents = [
                value.at(operand_region)
                for value, operand_region in zip(values, operand_regions, strict=True)
            ]
            contribution = _multiply(equation, contents, operand_regions, step, places, pairs)
            if isinstance(contribution, Lost) and not region:
                summed_axes = (left[pairs.summed[pair_index][0]] for pair_index in removed_pairs)
                leak(contribution.reason, tuple(summed_axes))
            elif contribution is not None:
                contributions.append(contribution)
        if not region:
            owed = contributions
            continue
        content = _total_content(contributions, equation.outvars[0].aval.dtype)
        if not is_zero(content):
            remainders[region] = content
    return owed, [remainders]


def _operand_region(pairs: _PairedAxes, side: int, region: Region, removed_pairs: Region) -> Region:
    """Returns the region of an operand that meets a region of the output.

    Args:
      pairs: of the product.
      side: which operand, 0 or 1.
      region: of the output.
      removed_pairs: those of the pairs of summed axes along which what is summed was removed.
    """
    operand_axes = [pairs.output_axes[axis][side] for axis in region]
    own_axes = frozenset(axis for axis in operand_axes if axis is not None)
    return own_axes | frozenset(pairs.summed[pair_index][side] for pair_index in removed_pairs)


def _multiply(
    equation: Any,
    contents: Sequence[Any],
    regions: Sequence[Region],
    step: Step,
    places: Places,
    pairs: _PairedAxes,
) -> Any:
    """Returns what a region of each operand adds to a product; `None`: nothing."""
    if is_zero_product(*contents):
        return None
    if any(
        is_zero(content) or (is_number(content) and not np.isfinite(content))
        for content in contents
    ):
        return _SEES_INFINITY
    lost = lost_among(contents)
    if lost:
        return lost
    sizes = [places.sizes(axes, region) for axes, region in zip(step.inputs, regions, strict=True)]
    batch_pairs = [  # along these both operands run
        (left_axis, right_axis)
        for left_axis, right_axis in pairs.output_axes
        if left_axis is not None and right_axis is not None
    ]

    def multiply(*contents: Any) -> Any:
        arrays = [
            broadcast_content(
                content,
                [1] * len(size) if is_number(content) else [None] * len(size),
                len(size),
                variable.aval.dtype,
            )
            for content, size, variable in zip(contents, sizes, equation.invars, strict=True)
        ]
        left_shape, right_shape = (list(array.shape) for array in arrays)
        repeats = 1
        for left_axis, right_axis in pairs.summed:
            if left_shape[left_axis] == right_shape[right_axis] == 1:
                repeats *= sizes[0][left_axis]  # instead of a sum of equal products
            else:
                left_shape[left_axis] = sizes[0][left_axis]
                right_shape[right_axis] = sizes[1][right_axis]
        for left_axis, right_axis in batch_pairs:
            batch_size = max(left_shape[left_axis], right_shape[right_axis])
            left_shape[left_axis] = batch_size
            right_shape[right_axis] = batch_size
        shapes = (left_shape, right_shape)
        for shape, size, window_axes in zip(shapes, sizes, pairs.windows, strict=True):
            for axis in window_axes:
                shape[axis] = size[axis]
        operands = [
            jnp.broadcast_to(array, shape) for array, shape in zip(arrays, shapes, strict=True)
        ]
        output = programs.bind(equation, operands)[0]
        return output if repeats == 1 else output * np.asarray(repeats).astype(output.dtype)

    return evaluate_or_shape(multiply, *contents)


def _grouped_conv(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> _SumRemainders:
    """Returns the remainders of a convolution in groups: zeros, or lost.

    What is removed must be zero on one side at least.
    """
    spec = equation.params["dimension_numbers"]
    input_axes, kernel_axes = step.inputs
    inputs, kernel = values
    lost = Lost("a convolution in groups meets what removed units leave behind")
    input_channel = spec.lhs_spec[1]
    kernel_input = spec.rhs_spec[1]
    kernel_output = spec.rhs_spec[0]

    def is_closed(value: Value, axes: AxisLabels, axis: int) -> bool:
        cut_regions = regions_of(places.cut(axes))
        return all(is_zero(value.at(region)) for region in cut_regions if axis in region)

    inputs_closed = is_closed(inputs, input_axes, input_channel)
    summed_axes = (input_axes[input_channel], kernel_axes[kernel_input])
    if places.cut(summed_axes) and not (
        inputs_closed or is_closed(kernel, kernel_axes, kernel_input)
    ):
        leak(lost.reason, summed_axes)
    remainders: Remainders = {}
    output_count = len(kernel_axes[kernel_output])
    is_depthwise = len(kernel_axes[kernel_input]) == 1 and output_count == len(
        input_axes[input_channel]
    )
    output_closed = is_closed(kernel, kernel_axes, kernel_output) or (
        is_depthwise and inputs_closed
    )
    for region in regions_of(places.cut(step.outputs[0])):
        if not (region == frozenset({spec.out_spec[1]}) and output_closed):
            remainders[region] = lost
    return [], [remainders]


Sum = Callable[[Any, Sequence[Value], Step, Places, Leak], _SumRemainders]

SUMS: dict[str, Sum] = {
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", *_LOGICAL),
        _reduce,
    ),
    "dot_general": _product,
    "conv_general_dilated": _product,
}
