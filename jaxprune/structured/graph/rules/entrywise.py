"""Rules of elementwise operations, and of reductions over axes."""

from typing import Any

from jaxprune.programs.primitives import ELEMENTWISE
from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.rules.rule import Rule, each_its_own, shapes_of

__all__ = ["RULES", "elementwise"]


def elementwise(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Ties all inputs of an elementwise operation, and returns their labels as those of the outputs.

    Scalars, and axes of length 1 beside longer ones, are read at every index, and are not tied.

    Args:
      labels: of the program; the ties are added to them.
      equation: whose outputs have one shape.
      inputs: labels of the axes of each input.
    """
    shapes = shapes_of(equation)
    full_inputs = [axes for axes in inputs if len(axes) == len(shapes[0])]
    output = []
    for i, size in enumerate(shapes[0]):
        long_axes = [axes[i] for axes in full_inputs if len(axes[i]) == size]
        for axis in long_axes[1:]:
            labels.tie(long_axes[0], axis)
        output.append(long_axes[0] if long_axes else labels.fresh(size))
    return [tuple(output)] * len(shapes)


def _without(axes: AxisLabels, reduced_axes: tuple[int, ...]) -> AxisLabels:
    return tuple(axis for i, axis in enumerate(axes) if i not in reduced_axes)


def _reduce(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels a reduction over axes: they are free, as zeros change no sum."""
    reduced_axes = equation.params["axes"]
    return [_without(axes, reduced_axes) for axes in inputs[: len(equation.outvars)]]


def _arg_reduce(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels a search for an index, which must keep its meaning: the axis is pinned."""
    labels.pin(*(inputs[0][i] for i in equation.params["axes"]))
    return _reduce(labels, equation, inputs)


def _reduce_by_function(
    labels: Labels, equation: Any, inputs: list[AxisLabels]
) -> list[AxisLabels]:
    """Labels a reduction by a function of its own; what it makes of zeros is not known: axes are pinned."""
    reduced_axes = equation.params["dimensions"]
    operands = inputs[: len(equation.outvars)]
    for axes in operands:
        labels.tie_all(operands[0], axes)
        labels.pin(*(axes[i] for i in reduced_axes))
    return [_without(operands[0], reduced_axes)] * len(operands)


def _bitcast(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels a bitcast; between types of other widths a last axis has the parts of each element."""
    (shape,) = shapes_of(equation)
    same_axes = inputs[0][: len(shape)]
    part_axes = inputs[0][len(shape) :]
    labels.pin(*part_axes)
    return [(*same_axes, *(labels.fresh(size, pinned=True) for size in shape[len(same_axes) :]))]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, Rule(elementwise)),
    "bitcast_convert_type": Rule(_bitcast),
    "optimization_barrier": Rule(each_its_own),
    **dict.fromkeys(
        (
            "reduce_sum",
            "reduce_max",
            "reduce_min",
            "reduce_prod",
            "reduce_and",
            "reduce_or",
            "reduce_xor",
        ),
        Rule(_reduce),
    ),
    **dict.fromkeys(("argmax", "argmin"), Rule(_arg_reduce)),
    "reduce": Rule(_reduce_by_function),
}
