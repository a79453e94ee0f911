"""Rules of slicing and joining: concatenation, slices, splits, padding."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.rules.rule import Kept, Rule, Step, again, shapes_of

__all__ = ["RULES"]


def _concatenate(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    joined_index = equation.params["dimension"]
    first_axes = inputs[0]
    for axes in inputs[1:]:
        labels.tie_all(
            [axis for i, axis in enumerate(first_axes) if i != joined_index],
            [axis for i, axis in enumerate(axes) if i != joined_index],
        )
    joined = np.concatenate([axes[joined_index] for axes in inputs])
    return [tuple(joined if i == joined_index else axis for i, axis in enumerate(first_axes))]


def _slice(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    params = equation.params
    strides = params["strides"] or (1,) * len(inputs[0])
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    output = tuple(
        axis[start:stop:stride]
        for axis, (start, stop, stride) in zip(inputs[0], bounds, strict=True)
    )
    # An axis of length 1 may be dropped or expanded later.
    labels.pin(*(axis for axis in output if len(axis) == 1))
    return [output]


def _slice_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    """Takes, of what is left of the operand, those indices that the slice had and that are left."""
    params = equation.params
    output = arrays[0]
    strides = params["strides"] or (1,) * output.ndim
    for i, axis in enumerate(step.inputs[0]):
        alive = kept(axis)
        new_index = np.cumsum(alive) - 1
        bounds = slice(params["start_indices"][i], params["limit_indices"][i], strides[i])
        wanted = new_index[bounds][alive[bounds]]
        if len(wanted) == output.shape[i]:
            continue
        if len(wanted) and len(wanted) == wanted[-1] + 1 - wanted[0]:  # a run without gaps
            output = lax.slice_in_dim(output, int(wanted[0]), int(wanted[-1]) + 1, axis=i)
        else:
            output = jnp.take(output, wanted, axis=i)
    return [output]


def _split(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    split_index = equation.params["axis"]
    axes = inputs[0]
    pieces = np.split(axes[split_index], np.cumsum(equation.params["sizes"])[:-1])
    labels.pin(*(piece for piece in pieces if len(piece) == 1))
    return [
        tuple(piece if i == split_index else axis for i, axis in enumerate(axes))
        for piece in pieces
    ]


def _split_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    split_index = equation.params["axis"]
    sizes = tuple(int(kept(axes[split_index]).sum()) for axes in step.outputs)
    return again(equation, arrays, sizes=sizes)


def _pad(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    (shape,) = shapes_of(equation)
    output = []
    for axis, (low, high, interior), size in zip(
        inputs[0], equation.params["padding_config"], shape, strict=True
    ):
        if interior or low < 0 or high < 0:
            labels.pin(axis)
            output.append(labels.fresh(size, pinned=True))
        elif low or high:
            output.append(np.concatenate([labels.fresh_many(low), axis, labels.fresh_many(high)]))
        else:
            output.append(axis)
    return [tuple(output)]


def _pad_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    new_config = []
    for axis, (low, high, interior) in zip(
        step.outputs[0], equation.params["padding_config"], strict=True
    ):
        if interior or low < 0 or high < 0:
            new_config.append((low, high, interior))
        else:
            alive = kept(axis)
            new_config.append((int(alive[:low].sum()), int(alive[len(alive) - high :].sum()), 0))
    return [lax.pad(arrays[0], arrays[1], new_config)]


def _unstack(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels the slices of an array along an axis, which is pinned: there are as many as before."""
    stacked_index = equation.params["axis"]
    axes = inputs[0]
    labels.pin(axes[stacked_index])
    slice_axes = tuple(axis for i, axis in enumerate(axes) if i != stacked_index)
    return [slice_axes] * len(equation.outvars)


def _stack(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels values that become the slices of a new axis, which is pinned: there are as many as before."""
    stacked_index = equation.params["axis"]
    first_axes = inputs[0]
    for axes in inputs[1:]:
        labels.tie_all(first_axes, axes)
    stacked = labels.fresh(len(inputs), pinned=True)
    return [(*first_axes[:stacked_index], stacked, *first_axes[stacked_index:])]


RULES: dict[str, Rule] = {
    "stack": Rule(_stack),
    "unstack": Rule(_unstack),
    "concatenate": Rule(_concatenate),
    "slice": Rule(_slice, _slice_again),
    "split": Rule(_split, _split_again),
    "pad": Rule(_pad, _pad_again),
}
