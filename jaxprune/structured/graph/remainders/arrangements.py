"""Remainders of operations that arrange axes anew: transposes, broadcasts, reshapes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import programs
from jaxprune.structured.graph.remainders.values import (
    EVERYWHERE,
    Lost,
    Places,
    Remainders,
    Value,
    evaluate_or_shape,
    is_array,
    is_number,
    is_zero,
    regions_of,
)
from jaxprune.structured.graph.rules import Step

__all__ = ["AXES", "Arrangement", "move_remainders"]

Arrangement = Callable[[Any, Sequence[Value], Step, Places], list[Remainders]]


def move_remainders(
    value: Value, step: Step, places: Places, input_axis_of: Sequence[int | None], change: Any
) -> Remainders:
    """Returns the remainders of an output whose axes are axes of one input, or new.

    Args:
      value: the input.
      step: the equation as it was followed.
      places: which are left.
      input_axis_of: of each axis of the output, the axis of the input; `None`: it is new, and all its indices
        have the same content.
      change: an array of contents -> one of the output's rank, with 1 along new axes.
    """
    remainders: Remainders = {}
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        input_axes = [input_axis_of[axis] for axis in region]
        content = value.at(frozenset(axis for axis in input_axes if axis is not None))
        if (content is value.array and not region) or (region and is_zero(content)):
            continue
        remainders[region] = evaluate_or_shape(change, content) if is_array(content) else content
    return remainders


def _transpose(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    permutation = equation.params["permutation"]
    return [
        move_remainders(
            values[0], step, places, permutation, lambda x: lax.transpose(x, permutation)
        )
    ]


def _squeeze(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    squeezed_axes = equation.params["dimensions"]
    input_axis_of = [axis for axis in range(len(step.inputs[0])) if axis not in squeezed_axes]
    return [
        move_remainders(
            values[0], step, places, input_axis_of, lambda x: lax.squeeze(x, squeezed_axes)
        )
    ]


def _expand_dims(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    new_axes = equation.params["dimensions"]
    old_axes = iter(range(len(step.inputs[0])))
    input_axis_of = [
        None if axis in new_axes else next(old_axes) for axis in range(len(step.outputs[0]))
    ]
    return [
        move_remainders(
            values[0], step, places, input_axis_of, lambda x: lax.expand_dims(x, new_axes)
        )
    ]


def _broadcast(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    output_axis_of = equation.params["broadcast_dimensions"]
    output_axes = step.outputs[0]
    input_axis_of: list[int | None] = [None] * len(output_axes)
    for input_axis, output_axis in enumerate(output_axis_of):
        if len(step.inputs[0][input_axis]) == len(output_axes[output_axis]):
            input_axis_of[output_axis] = input_axis

    def change(x: Any) -> Any:
        shape = [1] * len(output_axes)
        for input_axis, output_axis in enumerate(output_axis_of):
            shape[output_axis] = x.shape[input_axis]
        return x.reshape(shape)

    return [move_remainders(values[0], step, places, input_axis_of, change)]


def _rev(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Remainders]:
    reversed_axes = equation.params["dimensions"]
    input_axis_of = list(range(len(step.inputs[0])))
    return [
        move_remainders(values[0], step, places, input_axis_of, lambda x: lax.rev(x, reversed_axes))
    ]


def _tile(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Remainders]:
    counts = equation.params["reps"]
    axes = step.inputs[0]
    is_broadcast = [len(axis) == 1 and count != 1 for axis, count in zip(axes, counts, strict=True)]
    input_axis_of = [None if is_new else axis for axis, is_new in enumerate(is_broadcast)]

    def change(x: Any) -> Any:
        repeats = [1 if size == 1 else count for size, count in zip(x.shape, counts, strict=True)]
        return jnp.tile(x, repeats)

    return [move_remainders(values[0], step, places, input_axis_of, change)]


def _reshape(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    axes_as_read = programs.axes_as_read(equation)
    value = _transposed(values[0], axes_as_read)
    input_axes = tuple(step.inputs[0][axis] for axis in axes_as_read)
    output_axes = step.outputs[0]
    input_shape = [len(axis) for axis in input_axes]
    output_shape = [len(axis) for axis in output_axes]
    cut_inputs = places.cut(input_axes)
    cut_outputs = places.cut(output_axes)
    remainders: Remainders = {}
    if EVERYWHERE in value.remainders:
        remainders[EVERYWHERE] = value.remainders[EVERYWHERE]
    if not cut_outputs or 0 in input_shape:
        return [remainders]
    matches = _matching_axes(input_shape, output_shape)
    for region in regions_of(cut_outputs):
        # All regions of the input that end up in this one: of each match with removed outputs, any with
        # removed inputs.
        sources = [EVERYWHERE]
        for own_inputs, own_outputs in matches:
            if region & frozenset(own_outputs):
                own_regions = list(regions_of(cut_inputs & frozenset(own_inputs)))
                sources = [source | own_region for source in sources for own_region in own_regions]
        contents = [value.at(source) for source in sources]
        first_content = contents[0]
        if all(is_number(content) and content == first_content for content in contents):
            if not is_zero(first_content):
                remainders[region] = first_content
            continue
        lost_content = next((content for content in contents if isinstance(content, Lost)), None)
        is_one_to_one = all(
            len(cut_inputs & set(own_inputs)) == len(cut_outputs & set(own_outputs)) == 1
            for own_inputs, own_outputs in matches
            if region & frozenset(own_outputs)
        )
        if lost_content is None and is_one_to_one:
            input_sizes = places.sizes(input_axes, sources[0])
            output_sizes = places.sizes(output_axes, region)
            remainders[region] = _reshape_content(first_content, matches, input_sizes, output_sizes)
        else:
            mixed = Lost("a reshape mixes what removed units leave behind")
            remainders[region] = lost_content or mixed
    return [remainders]


def _transposed(value: Value, permutation: Sequence[int]) -> Value:
    """Returns a value whose remainders stand as they do after a transpose; its array stays."""
    if tuple(permutation) == tuple(range(len(permutation))):
        return value
    remainders = {
        frozenset(permutation.index(axis) for axis in region): (
            evaluate_or_shape(lambda x: lax.transpose(x, permutation), content)
            if is_array(content)
            else content
        )
        for region, content in value.remainders.items()
    }
    return value._replace(remainders=remainders)


def _matching_axes(
    input_shape: Sequence[int], output_shape: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Returns the axes of two shapes that belong together: the fewest with as many elements on both sides.

    Axes of length 1 are left out.

    >>> _matching_axes([2, 12, 5], [2, 3, 4, 1, 5])
    [([0], [0]), ([1], [1, 2]), ([2], [4])]
    """
    open_inputs = [axis for axis, size in enumerate(input_shape) if size > 1]
    open_outputs = [axis for axis, size in enumerate(output_shape) if size > 1]
    matches = []
    while open_inputs:
        input_axes = [open_inputs.pop(0)]
        output_axes = [open_outputs.pop(0)]
        input_size = input_shape[input_axes[0]]
        output_size = output_shape[output_axes[0]]
        while input_size != output_size:
            if input_size < output_size:
                input_axes.append(open_inputs.pop(0))
                input_size *= input_shape[input_axes[-1]]
            else:
                output_axes.append(open_outputs.pop(0))
                output_size *= output_shape[output_axes[-1]]
        matches.append((input_axes, output_axes))
    return matches


def _reshape_content(
    content: Any,
    matches: Sequence[tuple[list[int], list[int]]],
    input_sizes: Sequence[int],
    output_sizes: Sequence[int],
) -> Any:
    """Returns the reshaped content of a region, still of length 1 along axes where it is the same."""

    def change(x: Any) -> Any:
        broadcast_shape = list(x.shape)
        new_shape = [1] * len(output_sizes)
        for own_inputs, own_outputs in matches:
            if any(x.shape[axis] > 1 for axis in own_inputs):
                for axis in own_inputs:
                    broadcast_shape[axis] = input_sizes[axis]
                for axis in own_outputs:
                    new_shape[axis] = output_sizes[axis]
        return jnp.broadcast_to(x, broadcast_shape).reshape(new_shape)

    return evaluate_or_shape(change, content)


def _iota(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Remainders]:
    params = equation.params
    output_axes = step.outputs[0]
    counted_axis = params["dimension"]
    shape = [-1 if axis == counted_axis else 1 for axis in range(len(output_axes))]
    remainders: Remainders = {}
    for region in regions_of(places.cut(output_axes)):
        alive = places.alive(output_axes[counted_axis])
        in_region = ~alive if counted_axis in region else alive
        remainders[region] = np.flatnonzero(in_region).astype(params["dtype"]).reshape(shape)
    return [remainders]


AXES: dict[str, Arrangement] = {
    "broadcast_in_dim": _broadcast,
    "expand_dims": _expand_dims,
    "iota": _iota,
    "reshape": _reshape,
    "rev": _rev,
    "squeeze": _squeeze,
    "tile": _tile,
    "transpose": _transpose,
}
