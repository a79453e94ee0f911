"""Rules of cutting and joining: concatenation, slices, splits, padding."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.rule import Kept, Rule, Step, again, shapes_of

__all__ = ["RULES"]


def _concatenate(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    at, first = equation.params["dimension"], inputs[0]
    for axes in inputs[1:]:
        labels.tie_all(
            [a for i, a in enumerate(first) if i != at], [a for i, a in enumerate(axes) if i != at]
        )
    joined = np.concatenate([axes[at] for axes in inputs])
    return [tuple(joined if i == at else axis for i, axis in enumerate(first))]


def _slice(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    p = equation.params
    steps = p["strides"] or (1,) * len(inputs[0])
    cuts = zip(inputs[0], p["start_indices"], p["limit_indices"], steps, strict=True)
    found = tuple(axis[a:b:c] for axis, a, b, c in cuts)
    labels.pin(*(axis for axis in found if len(axis) == 1))  # it may be dropped or expanded later
    return [found]


def _slice_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    p, out = equation.params, arrays[0]
    steps = p["strides"] or (1,) * out.ndim
    for i, axis in enumerate(step.inputs[0]):
        alive = kept(axis)
        place = np.cumsum(alive) - 1
        cut = slice(p["start_indices"][i], p["limit_indices"][i], steps[i])
        wanted = place[cut][alive[cut]]
        if len(wanted) == out.shape[i]:
            continue
        if len(wanted) and len(wanted) == wanted[-1] + 1 - wanted[0]:
            out = lax.slice_in_dim(out, int(wanted[0]), int(wanted[-1]) + 1, axis=i)
        else:
            out = jnp.take(out, wanted, axis=i)
    return [out]


def _split(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    at, axes = equation.params["axis"], inputs[0]
    pieces = np.split(axes[at], np.cumsum(equation.params["sizes"])[:-1])
    labels.pin(*(piece for piece in pieces if len(piece) == 1))
    return [tuple(p if i == at else axis for i, axis in enumerate(axes)) for p in pieces]


def _split_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    at = equation.params["axis"]
    sizes = tuple(int(kept(axes[at]).sum()) for axes in step.outputs)
    return again(equation, arrays, sizes=sizes)


def _pad(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (shape,) = shapes_of(equation)
    found = []
    for axis, (low, high, inside), n in zip(
        inputs[0], equation.params["padding_config"], shape, strict=True
    ):
        if inside or low < 0 or high < 0:
            labels.pin(axis)
            found.append(labels.fresh(n, pinned=True))
        elif low or high:
            found.append(np.concatenate([labels.fresh_many(low), axis, labels.fresh_many(high)]))
        else:
            found.append(axis)
    return [tuple(found)]


def _pad_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    config = []
    for axis, (low, high, inside) in zip(
        step.outputs[0], equation.params["padding_config"], strict=True
    ):
        if inside or low < 0 or high < 0:
            config.append((low, high, inside))
        else:
            alive = kept(axis)
            config.append((int(alive[:low].sum()), int(alive[len(alive) - high :].sum()), 0))
    return [lax.pad(arrays[0], arrays[1], config)]


def _unstack(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Each index of an axis becomes a value of its own: there are as many as before."""
    at, axes = equation.params["axis"], inputs[0]
    labels.pin(axes[at])
    return [tuple(axis for i, axis in enumerate(axes) if i != at)] * len(equation.outvars)


def _stack(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Values become the indices of a new axis: there are as many as before."""
    at, first = equation.params["axis"], inputs[0]
    for axes in inputs[1:]:
        labels.tie_all(first, axes)
    return [(*first[:at], labels.fresh(len(inputs), pinned=True), *first[at:])]


RULES: dict[str, Rule] = {
    "stack": Rule(_stack),
    "unstack": Rule(_unstack),
    "concatenate": Rule(_concatenate),
    "slice": Rule(_slice, _slice_again),
    "split": Rule(_split, _split_again),
    "pad": Rule(_pad, _pad_again),
}
