"""Rules of windows that are slid along axes: pooling, and how it is differentiated."""

from typing import Any

from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.rules.rule import Rule, shapes_of

__all__ = ["RULES"]


def _is_pointwise(equation: Any) -> list[bool]:
    """Boolean per axis: windows take each index by itself and leave it where it is."""
    params = equation.params
    no_dilation = (1,) * len(params["window_dimensions"])
    return [
        window == stride == base == 1 and tuple(padding) == (0, 0)
        for window, stride, base, padding in zip(
            params["window_dimensions"],
            params["window_strides"],
            params.get("base_dilation", no_dilation),
            params["padding"],
            strict=True,
        )
    ]


def _reduce_window(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels one element of each window, whatever function of the window it is."""
    shapes = shapes_of(equation)
    rank = len(equation.params["window_dimensions"])
    operands = [axes for axes in inputs if len(axes) == rank]  # others are initial values
    for axes in operands[1:]:
        labels.tie_all(operands[0], axes)
    output = []
    for axis, size, is_pointwise in zip(
        operands[0], shapes[0], _is_pointwise(equation), strict=True
    ):
        if not is_pointwise:
            labels.pin(axis)
            axis = labels.fresh(size, pinned=True)
        output.append(axis)
    return [tuple(output)] * len(shapes)


def _scatter_windows(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels elements of one operand that are added up where windows point to in the other."""
    shape = shapes_of(equation)[0]
    rank = len(equation.params["window_dimensions"])
    operands = [axes for axes in inputs if len(axes) == rank]
    for i, is_pointwise in enumerate(_is_pointwise(equation)):
        if is_pointwise:
            labels.tie(operands[0][i], operands[1][i])
        else:
            labels.pin(operands[0][i], operands[1][i])
    # The output has the shape of one of them: the last such is the operand that is written to.
    return [next(axes for axes in reversed(operands) if tuple(len(axis) for axis in axes) == shape)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "reduce_window",
            "reduce_window_max",
            "reduce_window_min",
            "reduce_window_sum",
            "select_and_gather_add",
        ),
        Rule(_reduce_window),
    ),
    **dict.fromkeys(("select_and_scatter", "select_and_scatter_add"), Rule(_scatter_windows)),
}
