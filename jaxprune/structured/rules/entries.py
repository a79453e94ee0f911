"""Rules of what goes entry by entry, and of sums and the like over axes."""

from typing import Any

from jaxprune.programs.primitives import ELEMENTWISE
from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.rule import Rule, each_its_own, shapes_of

__all__ = ["RULES", "elementwise"]


def elementwise(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Ties all inputs, whose entries at one place make the entry of the output there.

    Scalars, and axes of length 1 beside longer ones, are read at every index.
    """
    shapes = shapes_of(equation)
    full = [axes for axes in inputs if len(axes) == len(shapes[0])]
    found = []
    for i, size in enumerate(shapes[0]):
        there = [axes[i] for axes in full if len(axes[i]) == size]
        for other in there[1:]:
            labels.tie(there[0], other)
        found.append(there[0] if there else labels.fresh(size))
    return [tuple(found)] * len(shapes)


def _without(axes: Axes, removed: tuple[int, ...]) -> Axes:
    return tuple(axis for i, axis in enumerate(axes) if i not in removed)


def _reduce(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    reduced = equation.params["axes"]
    return [_without(axes, reduced) for axes in inputs[: len(equation.outvars)]]


def _arg(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    labels.pin(*(inputs[0][i] for i in equation.params["axes"]))
    return _reduce(labels, equation, inputs)


def _reduce_by_function(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """A reduction by a function of its own: whether it lets zeros alone is not known, so all are kept."""
    reduced = equation.params["dimensions"]
    operands = inputs[: len(equation.outvars)]
    for axes in operands:
        labels.tie_all(operands[0], axes)
        labels.pin(*(axes[i] for i in reduced))
    return [_without(operands[0], reduced)] * len(operands)


def _bitcast(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Entry by entry; between types of other widths a last axis has the parts of each entry."""
    (shape,) = shapes_of(equation)
    same, parts = inputs[0][: len(shape)], inputs[0][len(shape) :]
    labels.pin(*parts)
    return [(*same, *(labels.fresh(n, pinned=True) for n in shape[len(same) :]))]


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
    **dict.fromkeys(("argmax", "argmin"), Rule(_arg)),
    "reduce": Rule(_reduce_by_function),
}
