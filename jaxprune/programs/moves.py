"""Views of parameters after a rearrangement: transposing, slicing, joining, ...

Each move is (equation, followed operands) -> per output, its views.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxprune.programs import views
from jaxprune.programs.axis_order import axes_as_read, transposes
from jaxprune.programs.tracked import TrackedValue
from jaxprune.programs.views import View

__all__ = ["JOINED", "MOVES"]

Moved = Sequence[Sequence[View]]


def _for_first_operand(
    move: Callable[[Any, View], View | None],
) -> Callable[[Any, list[TrackedValue]], Moved]:
    """Returns the move that maps each view of the first operand, whatever the others are."""

    def move_first_operand(equation: Any, inputs: list[TrackedValue]) -> Moved:
        moved_views = [move(equation, view) for view in inputs[0].views]
        return [[view for view in moved_views if view is not None]]

    return move_first_operand


def _shape(equation: Any, operand: int = 0) -> tuple[int, ...]:
    return equation.invars[operand].aval.shape


def _transpose(equation: Any, view: View) -> View:
    return views.transposed(view, equation.params["permutation"])


def _squeeze(equation: Any, view: View) -> View:
    return views.squeezed(view, equation.params["dimensions"])


def _expand_dims(equation: Any, view: View) -> View:
    return views.inserted(view, equation.params["dimensions"])


def _broadcast_in_dim(equation: Any, view: View) -> View:
    params = equation.params
    return views.broadcast(view, _shape(equation), params["shape"], params["broadcast_dimensions"])


def _reshape(equation: Any, view: View) -> View:
    shape = _shape(equation)
    axes = axes_as_read(equation)
    if transposes(equation):
        view = views.transposed(view, axes)
        shape = tuple(shape[axis] for axis in axes)
    return views.reshaped(view, shape, equation.outvars[0].aval.shape)


def _slice(equation: Any, view: View) -> View | None:
    params = equation.params
    return views.sliced(
        view,
        _shape(equation),
        params["start_indices"],
        params["limit_indices"],
        params["strides"],
    )


def _rev(equation: Any, view: View) -> View:
    return views.reversed_along(view, _shape(equation), equation.params["dimensions"])


def _dynamic_slice(equation: Any, inputs: list[TrackedValue]) -> Moved:
    shape = _shape(equation)
    sizes = equation.params["slice_sizes"]
    sliced_views = inputs[0].views
    for axis, (size, index) in enumerate(zip(sizes, inputs[1:], strict=True)):
        if size != shape[axis]:
            sliced_views = [
                sliced_view
                for earlier_view in sliced_views
                if (sliced_view := _slice_from(earlier_view, shape, axis, size, index))
            ]
        shape = (*shape[:axis], size, *shape[axis + 1 :])
    return [sliced_views]


def _slice_from(
    view: View, shape: tuple[int, ...], axis: int, size: int, index: TrackedValue
) -> View | None:
    """Returns the view of `size` indices of one axis, from an index on that may be known."""
    if not index.fact.known:
        return views.picked(view, shape, axis, size, index.value)
    start_index = min(max(int(index.fact.value), 0), shape[axis] - size)
    start = [start_index if other_axis == axis else 0 for other_axis in range(len(shape))]
    limit = [
        start_index + size if other_axis == axis else axis_size
        for other_axis, axis_size in enumerate(shape)
    ]
    return views.sliced(view, shape, start, limit)


def _gather(equation: Any, inputs: list[TrackedValue]) -> Moved:
    dimension_numbers = equation.params["dimension_numbers"]
    shape = _shape(equation)
    output_shape = equation.outvars[0].aval.shape
    slice_sizes = equation.params["slice_sizes"]
    dropped_axes = (
        *dimension_numbers.collapsed_slice_dims,
        *dimension_numbers.operand_batching_dims,
    )
    kept_axes = [axis for axis in range(len(shape)) if axis not in dropped_axes]
    looked_up_axes = [
        axis
        for axis in range(len(shape))
        if axis in dropped_axes or slice_sizes[axis] != shape[axis]
    ]
    source_axes: list[list[int]] = [list(dropped_axes) for _ in output_shape]
    for output_axis, axis in zip(dimension_numbers.offset_dims, kept_axes, strict=True):
        source_axes[output_axis] = [axis]
    if (
        looked_up_axes == list(dropped_axes)
        and len(dropped_axes) == 1
        and len(kept_axes) == len(output_shape)
    ):
        axis = dropped_axes[0]  # one index for all, as in `stack[layer]`
        rows = [_slice_from(view, shape, axis, 1, inputs[1]) for view in inputs[0].views]
        return [[views.squeezed(view, [axis]) for view in rows if view is not None]]
    return [[views.gathered(view, source_axes) for view in inputs[0].views]]


def _concatenate(equation: Any, inputs: list[TrackedValue]) -> Moved:
    axis = equation.params["dimension"]
    placed_views: list[View] = []
    begin = 0
    for operand, value in enumerate(inputs):
        placed_views += [views.placed(view, axis, begin) for view in value.views]
        begin += _shape(equation, operand)[axis]
    return [placed_views]


def _stack(equation: Any, inputs: list[TrackedValue]) -> Moved:
    axis = equation.params["axis"]
    return [
        [
            views.placed(views.inserted(view, [axis]), axis, index)
            for index, value in enumerate(inputs)
            for view in value.views
        ]
    ]


def _unstack(equation: Any, inputs: list[TrackedValue]) -> Moved:
    axis = equation.params["axis"]
    shape = _shape(equation)
    outputs: list[list[View]] = []
    for index in range(len(equation.outvars)):
        start = [index if other_axis == axis else 0 for other_axis in range(len(shape))]
        limit = [
            index + 1 if other_axis == axis else axis_size
            for other_axis, axis_size in enumerate(shape)
        ]
        rows = [views.sliced(view, shape, start, limit) for view in inputs[0].views]
        outputs.append([views.squeezed(view, [axis]) for view in rows if view is not None])
    return outputs


def _split(equation: Any, inputs: list[TrackedValue]) -> Moved:
    axis = equation.params["axis"]
    shape = _shape(equation)
    outputs: list[list[View]] = []
    begin = 0
    for size in equation.params["sizes"]:
        start = [begin if other_axis == axis else 0 for other_axis in range(len(shape))]
        limit = [
            begin + size if other_axis == axis else axis_size
            for other_axis, axis_size in enumerate(shape)
        ]
        sliced_views = [views.sliced(view, shape, start, limit) for view in inputs[0].views]
        outputs.append([view for view in sliced_views if view is not None])
        begin += size
    return outputs


def _pad(equation: Any, inputs: list[TrackedValue]) -> Moved:
    padded_views: list[View] = []
    for view in inputs[0].views:
        for axis, (low, high, interior) in enumerate(equation.params["padding_config"]):
            view = views.placed(view, axis, max(low, 0))
            if interior or min(low, high) < 0:
                view = view.inexact()
        padded_views.append(view)
    return [padded_views]


def _dynamic_update_slice(equation: Any, inputs: list[TrackedValue]) -> Moved:
    update_views = [view.inexact() for view in inputs[1].views]
    operand_views = [view.inexact() for view in inputs[0].views]
    return [[*operand_views, *update_views]]


def _tile(equation: Any, inputs: list[TrackedValue]) -> Moved:
    repetitions = equation.params["reps"]
    tiled_views: list[View] = []
    for view in inputs[0].views:
        new_axes = range(len(repetitions) - len(view.axes))
        tiled_views.append(views.tiled(views.inserted(view, new_axes), repetitions))
    return [tiled_views]


MOVES: dict[str, Callable[[Any, list[TrackedValue]], Moved]] = {
    "transpose": _for_first_operand(_transpose),
    "squeeze": _for_first_operand(_squeeze),
    "expand_dims": _for_first_operand(_expand_dims),
    "broadcast_in_dim": _for_first_operand(_broadcast_in_dim),
    "reshape": _for_first_operand(_reshape),
    "slice": _for_first_operand(_slice),
    "rev": _for_first_operand(_rev),
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "split": _split,
    "tile": _tile,
    "pad": _pad,
    "dynamic_update_slice": _dynamic_update_slice,
}
JOINED = ("concatenate", "stack")
