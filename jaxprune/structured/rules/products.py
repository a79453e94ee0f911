"""Rules of matrix products and convolutions."""

from typing import Any

from jaxprune import programs
from jaxprune.programs.contractions import contraction
from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.rule import Kept, Rule, Step, again, shapes_of

__all__ = ["RULES", "summed"]


def _dot(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (over_a, over_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    a, b = inputs
    labels.tie_all([a[i] for i in over_a], [b[i] for i in over_b])
    labels.tie_all([a[i] for i in batch_a], [b[i] for i in batch_b])
    free_a = [a[i] for i in range(len(a)) if i not in (*over_a, *batch_a)]
    free_b = [b[i] for i in range(len(b)) if i not in (*over_b, *batch_b)]
    return [(*(a[i] for i in batch_a), *free_a, *free_b)]


def _ragged_dot(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Runs of an axis of the first operand, each with a matrix of its own: how long they are stays."""
    a, b, lengths = inputs[:3]
    labels.pin(*(axis for axes in inputs[2:] for axis in axes))
    numbers = equation.params.get("ragged_dot_dimension_numbers")
    if numbers is None:  # the plain form: [rows, k] x [groups, k, n]
        over, batch, ragged, experts = ((1,), (1,)), ((), ()), 0, (0,)
    else:
        over, batch = numbers.dot_dimension_numbers
        (ragged,) = numbers.lhs_ragged_dimensions
        experts = numbers.rhs_group_dimensions
    labels.pin(a[ragged], *(b[i] for i in experts))
    labels.tie_all([a[i] for i in over[0]], [b[i] for i in over[1]])
    labels.tie_all([a[i] for i in batch[0]], [b[i] for i in batch[1]])
    free_a = [i for i in range(len(a)) if i not in (*over[0], *batch[0])]
    free_b = [i for i in range(len(b)) if i not in (*over[1], *batch[1], *experts)]
    if len(lengths) > 1:  # runs of each index of these axes, which come before the ragged one
        kinds = [*batch[0], *(free_a if ragged in free_a else over[0] if ragged in over[0] else [])]
        labels.pin(*(a[i] for i in kinds[: len(lengths) - 1]))
    runs = [labels.fresh(lengths[len(lengths) - 1].size, pinned=True)] if ragged in over[0] else []
    return [(*runs, *(a[i] for i in (*batch[0], *free_a)), *(b[i] for i in free_b))]


def _conv(labels: Labels, equation: Any, inputs: list[Axes]) -> Any:
    p, (shape,) = equation.params, shapes_of(equation)
    (x, kernel), spec = inputs, equation.params["dimension_numbers"]
    if p["batch_group_count"] > 1:
        labels.pin(*x, *kernel)
        return [labels.fresh_like(shape, pinned=True)]
    found: list[Any] = [None] * len(shape)
    found[spec.out_spec[0]], found[spec.out_spec[1]] = x[spec.lhs_spec[0]], kernel[spec.rhs_spec[0]]
    for i in range(2, len(shape)):
        labels.pin(x[spec.lhs_spec[i]], kernel[spec.rhs_spec[i]])
        found[spec.out_spec[i]] = labels.fresh(shape[spec.out_spec[i]], pinned=True)
    entering, leaving = x[spec.lhs_spec[1]], kernel[spec.rhs_spec[0]]
    count = p["feature_group_count"]
    if count == 1:
        labels.tie(entering, kernel[spec.rhs_spec[1]])
        return [tuple(found)]
    groups = labels.fresh(count)
    labels.merge(entering, [groups, kernel[spec.rhs_spec[1]]])
    labels.merge(leaving, [groups, labels.fresh(len(leaving) // count)])
    return [tuple(found)], groups


def _conv_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    if step.more is None:
        return programs.bind(equation, arrays)
    return again(equation, arrays, feature_group_count=int(kept(step.more).sum()))


def summed(step: Step) -> list[tuple[Axes, tuple[int, ...]]]:
    """The operands of a product, each with the axes that it sums over; of a convolution, channels."""
    product = contraction(step.equation)
    if product is None:
        return []
    if step.equation.primitive.name == "conv_general_dilated":
        channels = step.equation.params["dimension_numbers"].lhs_spec[1]
        return [(step.inputs[0], (channels,)), (step.inputs[1], product.axes(1, "in"))]
    return [(step.inputs[operand], product.axes(operand, "in")) for operand in (0, 1)]


RULES: dict[str, Rule] = {
    "dot_general": Rule(_dot),
    **dict.fromkeys(("ragged_dot", "ragged_dot_general"), Rule(_ragged_dot)),
    "conv_general_dilated": Rule(_conv, _conv_again),
}
