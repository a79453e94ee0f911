"""Rules of what goes entry by entry, and of sums and windows over axes."""

from collections.abc import Callable
from typing import Any

from jaxprune.programs.primitives import ELEMENTWISE
from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.rule import Rule, shapes_of

__all__ = ["RULES"]


def _elementwise(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    shapes = shapes_of(equation)
    full = [axes for axes in inputs if len(axes) == len(shapes[0])]
    found = []
    for i, size in enumerate(shapes[0]):
        there = [axes[i] for axes in full if len(axes[i]) == size]
        for other in there[1:]:
            labels.tie(there[0], other)
        found.append(there[0] if there else labels.fresh(size))
    return [tuple(found)] * len(shapes)


def _barrier(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    return list(inputs)


def _reduce(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    gone = equation.params["axes"]
    keep = lambda axes: tuple(axis for i, axis in enumerate(axes) if i not in gone)
    return [keep(axes) for axes in inputs[: len(equation.outvars)]]


def _arg(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    labels.pin(*(inputs[0][i] for i in equation.params["axes"]))
    return _reduce(labels, equation, inputs)


def _along(name: str) -> Callable[[Labels, Any, list[Axes]], list[Axes]]:
    """What depends on the order along an axis."""

    def label(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
        at = equation.params[name]
        for axes in inputs:
            labels.pin(axes[at])
            labels.tie_all(inputs[0], axes)
        return [inputs[0]] * len(equation.outvars)

    return label


def _window(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (shape,) = shapes_of(equation)
    found = []
    for axis, n, window in zip(inputs[0], shape, equation.params["window_dimensions"], strict=True):
        if window == 1 and len(axis) == n:
            found.append(axis)
        else:
            labels.pin(axis)
            found.append(labels.fresh(n, pinned=True))
    return [tuple(found)]


def _bitcast(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Entry by entry, where both types are of one width."""
    (shape,) = shapes_of(equation)
    if len(inputs[0]) == len(shape):
        return _elementwise(labels, equation, inputs)
    labels.pin(*inputs[0])
    return [labels.fresh_like(shape, pinned=True)]


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, Rule(_elementwise)),
    "bitcast_convert_type": Rule(_bitcast),
    "optimization_barrier": Rule(_barrier),
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
        Rule(_reduce),
    ),
    **dict.fromkeys(("argmax", "argmin"), Rule(_arg)),
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), Rule(_along("axis"))
    ),
    "sort": Rule(_along("dimension")),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), Rule(_window)),
}
