"""Rules of lookups at computed places, and of random numbers."""

from typing import Any

from jaxprune import programs
from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.rule import Kept, Rule, Step, again, cut, left, shapes_of

__all__ = ["RULES"]


def _gather(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    p, (shape,) = equation.params, shapes_of(equation)
    numbers, (operand, index) = p["dimension_numbers"], inputs
    whole = [
        i
        for i in range(len(operand))
        if i not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    ]
    found: list[Any] = [None] * len(shape)
    for i, axis in enumerate(operand):
        if i in whole and p["slice_sizes"][i] == len(axis):
            found[numbers.offset_dims[whole.index(i)]] = axis
        else:
            labels.pin(axis)
    batch = [i for i in range(len(shape)) if i not in numbers.offset_dims]
    for i, axis in zip(batch, index[:-1], strict=False):
        found[i] = axis
    for i in numbers.start_indices_batching_dims:
        labels.pin(index[i])
    labels.pin(index[-1])
    return [
        tuple(
            labels.fresh(n, pinned=True) if a is None else a
            for a, n in zip(found, shape, strict=True)
        )
    ]


def _gather_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    sizes = equation.params["slice_sizes"]
    left = [
        int(kept(axis).sum()) if n == len(axis) else n
        for n, axis in zip(sizes, step.inputs[0], strict=True)
    ]
    return again(equation, arrays, slice_sizes=tuple(left))


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


def _random_bits(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    for axes in inputs:
        labels.pin(*axes)
    return [labels.fresh_like(shapes_of(equation)[0])]


def _stays(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """PRNG keys and the like: nothing of them can go."""
    for axes in inputs:
        labels.pin(*axes)
    return [labels.fresh_like(shape, pinned=True) for shape in shapes_of(equation)]


def _drawn_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    """Drawn whole, then cut: units that are left see what they saw before."""
    return [
        cut(out, axes, kept)
        for out, axes in zip(programs.bind(equation, arrays), step.outputs, strict=True)
    ]


RULES: dict[str, Rule] = {
    "gather": Rule(_gather, _gather_again),
    "dynamic_slice": Rule(_dynamic_slice, _dynamic_slice_again),
    "dynamic_update_slice": Rule(_dynamic_update_slice),
    "random_bits": Rule(_random_bits, _drawn_again),
    **dict.fromkeys(
        ("random_seed", "random_split", "random_fold_in", "random_wrap", "random_unwrap"),
        Rule(_stays),
    ),
}
