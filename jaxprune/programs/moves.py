"""What operations that arrange values anew make of what these hold of the parameters.

Each is (equation, followed operands) -> per output, the views of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxprune.programs import views
from jaxprune.programs.tracked import Tracked
from jaxprune.programs.views import View

__all__ = ["JOINED", "MOVES"]

Moved = Sequence[Sequence[View]]


def _each(move: Callable[[Any, View], View | None]) -> Callable[[Any, list[Tracked]], Moved]:
    """The move of one operand, whatever the others are."""

    def moved(equation: Any, inputs: list[Tracked]) -> Moved:
        found = [move(equation, view) for view in inputs[0].views]
        return [[view for view in found if view is not None]]

    return moved


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
    order = equation.params["dimensions"]
    if order is not None:  # in which the axes are read
        view = views.transposed(view, order)
        shape = tuple(shape[axis] for axis in order)
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


def _dynamic_slice(equation: Any, inputs: list[Tracked]) -> Moved:
    shape = _shape(equation)
    sizes = equation.params["slice_sizes"]
    found = inputs[0].views
    for axis, (size, index) in enumerate(zip(sizes, inputs[1:], strict=True)):
        if size != shape[axis]:
            found = [view for old in found if (view := _from(old, shape, axis, size, index))]
        shape = (*shape[:axis], size, *shape[axis + 1 :])
    return [found]


def _from(view: View, shape: tuple[int, ...], axis: int, size: int, index: Tracked) -> View | None:
    """Some indices of one axis, from one on that may be known."""
    if not index.fact.known:
        return views.picked(view, shape, axis, size, index.value)
    first = min(max(int(index.fact.value), 0), shape[axis] - size)
    start = [first if i == axis else 0 for i in range(len(shape))]
    limit = [first + size if i == axis else n for i, n in enumerate(shape)]
    return views.sliced(view, shape, start, limit)


def _gather(equation: Any, inputs: list[Tracked]) -> Moved:
    numbers = equation.params["dimension_numbers"]
    shape = _shape(equation)
    output = equation.outvars[0].aval.shape
    sizes = equation.params["slice_sizes"]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    looked_up = [axis for axis in range(len(shape)) if axis in gone or sizes[axis] != shape[axis]]
    sources: list[list[int]] = [list(gone) for _ in output]
    for place, axis in zip(numbers.offset_dims, kept, strict=True):
        sources[place] = [axis]
    if looked_up == list(gone) and len(gone) == 1 and len(kept) == len(output):
        axis = gone[0]  # one index for all, as in `stack[layer]`
        rows = [_from(view, shape, axis, 1, inputs[1]) for view in inputs[0].views]
        return [[views.squeezed(view, [axis]) for view in rows if view is not None]]
    return [[views.gathered(view, sources) for view in inputs[0].views]]


def _concatenate(equation: Any, inputs: list[Tracked]) -> Moved:
    axis = equation.params["dimension"]
    found: list[View] = []
    begin = 0
    for operand, value in enumerate(inputs):
        found += [views.placed(view, axis, begin) for view in value.views]
        begin += _shape(equation, operand)[axis]
    return [found]


def _stack(equation: Any, inputs: list[Tracked]) -> Moved:
    axis = equation.params["axis"]
    return [
        [
            views.placed(views.inserted(view, [axis]), axis, index)
            for index, value in enumerate(inputs)
            for view in value.views
        ]
    ]


def _unstack(equation: Any, inputs: list[Tracked]) -> Moved:
    axis = equation.params["axis"]
    shape = _shape(equation)
    outputs: list[list[View]] = []
    for index in range(len(equation.outvars)):
        start = [index if i == axis else 0 for i in range(len(shape))]
        limit = [index + 1 if i == axis else n for i, n in enumerate(shape)]
        rows = [views.sliced(view, shape, start, limit) for view in inputs[0].views]
        outputs.append([views.squeezed(view, [axis]) for view in rows if view is not None])
    return outputs


def _split(equation: Any, inputs: list[Tracked]) -> Moved:
    axis = equation.params["axis"]
    shape = _shape(equation)
    outputs: list[list[View]] = []
    begin = 0
    for size in equation.params["sizes"]:
        start = [begin if i == axis else 0 for i in range(len(shape))]
        limit = [begin + size if i == axis else n for i, n in enumerate(shape)]
        parts = [views.sliced(view, shape, start, limit) for view in inputs[0].views]
        outputs.append([view for view in parts if view is not None])
        begin += size
    return outputs


def _pad(equation: Any, inputs: list[Tracked]) -> Moved:
    found: list[View] = []
    for view in inputs[0].views:
        for axis, (low, high, interior) in enumerate(equation.params["padding_config"]):
            view = views.placed(view, axis, max(low, 0))
            if interior or min(low, high) < 0:
                view = view.inexact()
        found.append(view)
    return [found]


def _dynamic_update_slice(equation: Any, inputs: list[Tracked]) -> Moved:
    part = [view.inexact() for view in inputs[1].views]
    whole = [view.inexact() for view in inputs[0].views]
    return [[*whole, *part]]


def _tile(equation: Any, inputs: list[Tracked]) -> Moved:
    repetitions = equation.params["reps"]
    found: list[View] = []
    for view in inputs[0].views:
        new = range(len(repetitions) - len(view.axes))
        found.append(views.tiled(views.inserted(view, new), repetitions))
    return [found]


MOVES: dict[str, Callable[[Any, list[Tracked]], Moved]] = {
    "transpose": _each(_transpose),
    "squeeze": _each(_squeeze),
    "expand_dims": _each(_expand_dims),
    "broadcast_in_dim": _each(_broadcast_in_dim),
    "reshape": _each(_reshape),
    "slice": _each(_slice),
    "rev": _each(_rev),
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
