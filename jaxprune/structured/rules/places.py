"""Rules of computed places: lookups, slices, and what is written there."""

from typing import Any

from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.rule import Kept, Rule, Step, again, left, shapes_of

__all__ = ["RULES"]


def _gather(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Windows of an operand from computed places.

    Axes that windows span whole are free, as are those of which each index has places of its own.
    """
    numbers, (shape,) = equation.params["dimension_numbers"], shapes_of(equation)
    operand, places = inputs
    outside = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    windows = [i for i in range(len(operand)) if i not in outside]
    found: list[Any] = [None] * len(shape)
    for i, j in zip(windows, numbers.offset_dims, strict=True):
        if equation.params["slice_sizes"][i] == len(operand[i]):
            found[j] = operand[i]
        else:
            labels.pin(operand[i])
            found[j] = labels.fresh(shape[j], pinned=True)
    labels.pin(*(operand[i] for i in numbers.collapsed_slice_dims), places[-1])
    batch = (numbers.operand_batching_dims, numbers.start_indices_batching_dims)
    for i, j in zip(*batch, strict=True):
        labels.tie(operand[i], places[j])
    rows = [j for j in range(len(shape)) if j not in numbers.offset_dims]
    for j, axis in zip(rows, places[:-1], strict=True):
        found[j] = axis
    return [tuple(found)]


def _gather_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    sizes = equation.params["slice_sizes"]
    alone = equation.params["dimension_numbers"].operand_batching_dims
    whole = [
        n == len(axis) and i not in alone
        for i, (n, axis) in enumerate(zip(sizes, step.inputs[0], strict=True))
    ]
    spans = zip(whole, left(step.inputs[0], kept), sizes, strict=True)
    return again(equation, arrays, slice_sizes=tuple(n if all_ else old for all_, n, old in spans))


def _dynamic_slice(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    found = []
    for axis, n in zip(inputs[0], shapes_of(equation)[0], strict=True):
        if len(axis) != n:
            labels.pin(axis)
            axis = labels.fresh(n, pinned=True)
        found.append(axis)
    return [tuple(found)]


def _dynamic_slice_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return again(equation, arrays, slice_sizes=left(step.outputs[0], kept))


def _dynamic_update_slice(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    for whole, piece in zip(inputs[0], inputs[1], strict=True):
        if len(whole) == len(piece):
            labels.tie(whole, piece)
        else:
            labels.pin(whole, piece)
    return [inputs[0]]


def _scatter(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Windows of updates at computed places of an operand: `x.at[...]`, and sums over segments.

    Axes that windows span whole are free, as are those of which each index has places of its own. Rows of
    updates may go where they are only added: rows of zeros are nothing.
    """
    numbers, (operand, places, updates) = equation.params["dimension_numbers"], inputs
    outside = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = [i for i in range(len(operand)) if i not in outside]
    for i, j in zip(windows, numbers.update_window_dims, strict=True):
        if len(operand[i]) == len(updates[j]):
            labels.tie(operand[i], updates[j])
        else:
            labels.pin(operand[i], updates[j])
    labels.pin(*(operand[i] for i in numbers.inserted_window_dims), places[-1])
    batch = list(
        zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    )
    for i, j in batch:
        labels.tie(operand[i], places[j])
    rows = [j for j in range(len(updates)) if j not in numbers.update_window_dims]
    own_places = [j for _, j in batch]
    for i, j in enumerate(rows):
        labels.tie(places[i], updates[j])
        if i not in own_places and equation.primitive.name not in ("scatter-add", "scatter-sub"):
            labels.pin(places[i])
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
