"""Rules of windows that are slid along axes: pooling, and how it is differentiated."""

from typing import Any

from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.rule import Rule, shapes_of

__all__ = ["RULES"]


def _untouched(equation: Any) -> list[bool]:
    """Per axis, whether windows take each index by itself and leave it where it is."""
    params, ones = equation.params, (1,) * len(equation.params["window_dimensions"])
    return [
        window == stride == base == 1 and tuple(padding) == (0, 0)
        for window, stride, base, padding in zip(
            params["window_dimensions"],
            params["window_strides"],
            params.get("base_dilation", ones),
            params["padding"],
            strict=True,
        )
    ]


def _reduce_window(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """One entry of each window, whatever function it is of."""
    shapes, rank = shapes_of(equation), len(equation.params["window_dimensions"])
    operands = [axes for axes in inputs if len(axes) == rank]  # others are what windows begin with
    for axes in operands[1:]:
        labels.tie_all(operands[0], axes)
    found = []
    for axis, size, free in zip(operands[0], shapes[0], _untouched(equation), strict=True):
        if not free:
            labels.pin(axis)
            axis = labels.fresh(size, pinned=True)
        found.append(axis)
    return [tuple(found)] * len(shapes)


def _scatter_windows(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Entries of one operand are added up at the places that windows choose in the other."""
    shape, rank = shapes_of(equation)[0], len(equation.params["window_dimensions"])
    arrays = [axes for axes in inputs if len(axes) == rank]
    for i, free in enumerate(_untouched(equation)):
        if free:
            labels.tie(arrays[0][i], arrays[1][i])
        else:
            labels.pin(arrays[0][i], arrays[1][i])
    sizes = lambda axes: tuple(len(axis) for axis in axes)
    return [next(axes for axes in reversed(arrays) if sizes(axes) == shape)]


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
