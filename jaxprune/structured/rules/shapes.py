"""Rules of what only arranges axes anew: transposes, broadcasts, reshapes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxprune import programs
from jaxprune.structured.labels import Axes, Labels, refined
from jaxprune.structured.rules.rule import Kept, Rule, Step, again, cut, left, shapes_of

__all__ = ["RULES"]


def _transpose(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    return [tuple(inputs[0][i] for i in equation.params["permutation"])]


def _squeeze(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    gone = equation.params["dimensions"]
    return [tuple(axis for i, axis in enumerate(inputs[0]) if i not in gone)]


def _expand_dims(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    rest, new = iter(inputs[0]), equation.params["dimensions"]
    size = len(shapes_of(equation)[0])
    return [tuple(labels.fresh(1) if i in new else next(rest) for i in range(size))]


def _broadcast(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (shape,) = shapes_of(equation)
    where = dict(zip(equation.params["broadcast_dimensions"], inputs[0], strict=True))
    fits = lambda i, n: i in where and len(where[i]) == n
    return [tuple(where[i] if fits(i, n) else labels.fresh(n) for i, n in enumerate(shape))]


def _broadcast_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return again(equation, arrays, shape=left(step.outputs[0], kept))


def _tile(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """An axis of length 1 is broadcast; a longer one is repeated, and each of its indices goes everywhere."""
    pairs = zip(inputs[0], equation.params["reps"], strict=True)
    return [
        tuple(
            labels.fresh(count) if len(axis) == 1 and count != 1 else np.tile(axis, count)
            for axis, count in pairs
        )
    ]


def _tile_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    counts = [
        int(kept(out).sum()) if len(axis) == 1 else count
        for axis, out, count in zip(
            step.inputs[0], step.outputs[0], equation.params["reps"], strict=True
        )
    ]
    return again(equation, arrays, reps=tuple(counts))


def _reshape(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (shape,) = shapes_of(equation)
    axes = inputs[0]
    if 0 in shape:
        labels.pin(*axes)
        return [labels.fresh_like(shape, pinned=True)]
    found: list[Any] = [labels.fresh(1) if n == 1 else None for n in shape]
    entering = [i for i, axis in enumerate(axes) if len(axis) > 1]
    leaving = [i for i, n in enumerate(shape) if n > 1]
    while entering:
        a, b = [entering.pop(0)], [leaving.pop(0)]
        size = lambda own, of: int(np.prod([of[i] for i in own]))
        lengths = [len(axis) for axis in axes]
        while size(a, lengths) != size(b, shape):
            if size(a, lengths) < size(b, shape):
                a.append(entering.pop(0))
            else:
                b.append(leaving.pop(0))
        new = _regrouped(labels, [axes[i] for i in a], [shape[i] for i in b])
        for i, axis in zip(b, new, strict=True):
            found[i] = axis
    return [tuple(found)]


def _regrouped(labels: Labels, axes: list[np.ndarray], shape: list[int]) -> list[np.ndarray]:
    """Labels of the axes into which some axes with as many entries are reshaped."""
    fine = refined([len(axis) for axis in axes], shape)
    if fine is None:
        labels.pin(*axes)
        return [labels.fresh(n, pinned=True) for n in shape]
    factors: list[Any] = [None] * len(fine)

    def spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
        start, found = 0, []
        for n in sizes:
            stop, whole = start, 1
            while whole < n:
                whole, stop = whole * fine[stop], stop + 1
            found.append((start, stop))
            start = stop
        return found

    for axis, (start, stop) in zip(axes, spans([len(axis) for axis in axes]), strict=True):
        if stop == start + 1:
            factors[start] = axis
        else:
            factors[start:stop] = [labels.fresh(n) for n in fine[start:stop]]
            labels.merge(axis, factors[start:stop])
    out = []
    for n, (start, stop) in zip(shape, spans(shape), strict=True):
        if stop == start + 1:
            out.append(factors[start])
        else:
            out.append(labels.fresh(n))
            labels.merge(out[-1], factors[start:stop])
    return out


def _reshape_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return again(equation, arrays, new_sizes=left(step.outputs[0], kept))


def _rev(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    turned = equation.params["dimensions"]
    return [tuple(axis[::-1] if i in turned else axis for i, axis in enumerate(inputs[0]))]


def _iota(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    return [labels.fresh_like(shapes_of(equation)[0])]


def _iota_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return [cut(programs.bind(equation, arrays)[0], step.outputs[0], kept)]


RULES: dict[str, Rule] = {
    "transpose": Rule(_transpose),
    "squeeze": Rule(_squeeze),
    "expand_dims": Rule(_expand_dims),
    "broadcast_in_dim": Rule(_broadcast, _broadcast_again),
    "reshape": Rule(_reshape, _reshape_again),
    "tile": Rule(_tile, _tile_again),
    "rev": Rule(_rev),
    "iota": Rule(_iota, _iota_again),
}
