"""Maps the axes of a value to the indices of the parameter that it is made of.

A kernel is seldom multiplied as it is stored: it is transposed, reshaped, sliced, stacked, indexed by a loop.
All of these keep an index of the leaf an affine function of the indices of the value. A `Digit` is one term
of that function: a value's axis that merges heads and head size has two digits, the slice `w[:, 1]` has none
for the axis that it picks from.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxprune.programs.digits import REPEATED, Digit, runs_of_equal_size, split_digits

__all__ = [
    "Loop",
    "Pick",
    "View",
    "broadcast",
    "contracted",
    "gathered",
    "inserted",
    "iterated",
    "picked",
    "placed",
    "reshaped",
    "reversed_along",
    "sliced",
    "squeezed",
    "tiled",
    "transposed",
    "view_of_leaf",
]


class Loop(NamedTuple):
    """A digit that a loop counts: in each iteration the view is at the next index.

    Attributes:
      depth: of the loop; 0 is the outermost.
      digit: what an iteration moves by.
    """

    depth: int
    digit: Digit


class Pick(NamedTuple):
    """A place that the program computes: the leaf's index is `stride * index` further on.

    Attributes:
      axis: of the leaf.
      stride: of its index.
      index: holds an integer while the program runs (`tracked.Holder`); `None` while it is only read.
      most: the largest that the index can be; a larger one counts as this, as everywhere in XLA.
    """

    axis: int
    stride: int
    index: Any
    most: int


@dataclasses.dataclass(frozen=True)
class View:
    """A value as an arrangement of elements of one parameter.

    Attributes:
      leaf: index of the parameter among the leaves of its tree.
      axes: per axis of the value, the digits that it runs through, the slowest first.
      begins: per axis of the value, where the parameter's elements begin; elsewhere are those of others.
      starts: per axis of the parameter, the index of the first element.
      loops: digits that loops around this program run through.
      picks: places that are computed.
      exact: whether positions are known; if not, the digits still name the axes of the parameter.
      inner: axes of the parameter that were summed over in a product with another parameter, as those of the
        factors of a low-rank update are; `None`: it is no factor.
      rank: number of terms in the sums of that product.
      by_constant: whether it was a product with a constant of the program instead.
      shape: of the parameter.
    """

    leaf: int
    axes: tuple[tuple[Digit, ...], ...]
    begins: tuple[int, ...]
    starts: tuple[int, ...]
    loops: tuple[Loop, ...] = ()
    picks: tuple[Pick, ...] = ()
    exact: bool = True
    inner: tuple[int, ...] | None = None
    rank: int = 0
    by_constant: bool = False
    shape: tuple[int, ...] = ()

    def extent(self, axis: int) -> int:
        """Returns the number of indices of an axis of the value that hold elements of the parameter."""
        return math.prod(digit.size for digit in self.axes[axis])

    def repeats(self, axis: int) -> bool:
        """Whether the value has the same elements at each of several indices of an axis."""
        digits = [digit for digit in self.axes[axis] if digit.size > 1]
        return bool(digits) and all(digit.axis == REPEATED for digit in digits)

    def partly_repeats(self) -> bool:
        """Whether an axis of the value goes through the same elements again and again."""
        return any(
            digit.axis == REPEATED and digit.size > 1 for digits in self.axes for digit in digits
        )

    def has_leaf_axes(self, axes: Sequence[int]) -> bool:
        """Whether one of some axes of the value runs along an axis of the parameter."""
        return any(digit.axis != REPEATED for axis in axes for digit in self.axes[axis])

    def spans(self, digit: Digit) -> bool:
        """Whether a digit goes through a whole axis of the parameter."""
        return digit.axis >= 0 and digit.size == self.shape[digit.axis]

    def inexact(self) -> "View":
        """Returns the view without the claim that positions are known."""
        return dataclasses.replace(self, exact=False)


def view_of_leaf(leaf: int, shape: Sequence[int]) -> View:
    """Returns the view of a parameter as it is stored."""
    axes = tuple((Digit(axis, size, 1),) for axis, size in enumerate(shape))
    zeros = (0,) * len(shape)
    return View(leaf, axes, zeros, zeros, shape=tuple(shape))


def _rearranged(
    view: View, axes: Sequence[tuple[Digit, ...]], begins: Sequence[int], **changes: Any
) -> View:
    return dataclasses.replace(view, axes=tuple(axes), begins=tuple(begins), **changes)


def transposed(view: View, permutation: Sequence[int]) -> View:
    """Returns the view of the value with its axes in another order."""
    axes = [view.axes[axis] for axis in permutation]
    return _rearranged(view, axes, [view.begins[axis] for axis in permutation])


def squeezed(view: View, dropped_axes: Sequence[int]) -> View:
    """Returns the view of the value without some axes of length 1."""
    kept_axes = [axis for axis in range(len(view.axes)) if axis not in dropped_axes]
    return transposed(view, kept_axes)


def inserted(view: View, new_axes: Sequence[int]) -> View:
    """Returns the view of the value with more axes of length 1, which are `new_axes` of the result."""
    ndim = len(view.axes) + len(new_axes)
    remaining_axes = iter(range(len(view.axes)))
    sources = [None if axis in new_axes else next(remaining_axes) for axis in range(ndim)]
    axes = [() if source is None else view.axes[source] for source in sources]
    begins = [0 if source is None else view.begins[source] for source in sources]
    return _rearranged(view, axes, begins)


def broadcast(
    view: View, shape: Sequence[int], new_shape: Sequence[int], placement: Sequence[int]
) -> View:
    """Returns the view of the value repeated along new axes, and along those of length 1.

    Args:
      view: of the value.
      shape: of the value.
      new_shape: of the result.
      placement: per axis of the value, its axis of the result.
    """
    source_axes = {result_axis: source_axis for source_axis, result_axis in enumerate(placement)}
    axes: list[tuple[Digit, ...]] = []
    begins: list[int] = []
    for axis, size in enumerate(new_shape):
        source_axis = source_axes.get(axis)
        if source_axis is not None and shape[source_axis] == size:
            axes.append(view.axes[source_axis])
            begins.append(view.begins[source_axis])
        else:
            axes.append((Digit(REPEATED, size, 0),))
            begins.append(0)
    return _rearranged(view, axes, begins)


def tiled(view: View, repetitions: Sequence[int]) -> View:
    """Returns the view of several copies of the value along each axis, one after the other."""
    axes = [
        (Digit(REPEATED, repetition, 0), *digits) if repetition > 1 else digits
        for digits, repetition in zip(view.axes, repetitions, strict=True)
    ]
    is_exact = view.exact and not any(view.begins)
    return _rearranged(view, axes, view.begins, exact=is_exact)


def reshaped(view: View, shape: Sequence[int], new_shape: Sequence[int]) -> View:
    """Returns the view of the value in another shape.

    Axes are compared in runs of the same number of elements; within a run digits are merged and split. Where
    a size does not split at a digit, the axes of the result hold all digits of the run, no longer exact.
    """
    axes: list[tuple[Digit, ...]] = [()] * len(new_shape)
    begins = [0] * len(new_shape)
    is_exact = view.exact
    for old_axes, new_axes in runs_of_equal_size(shape, new_shape):
        if len(old_axes) == 1 and len(new_axes) == 1:
            axes[new_axes[0]] = view.axes[old_axes[0]]
            begins[new_axes[0]] = view.begins[old_axes[0]]
            continue
        is_whole = all(view.extent(axis) == shape[axis] for axis in old_axes)
        digits = [digit for axis in old_axes for digit in view.axes[axis] if digit.size > 1]
        digits_of_axes = (
            split_digits(digits, [new_shape[axis] for axis in new_axes]) if is_whole else None
        )
        is_exact = is_exact and digits_of_axes is not None
        for position, axis in enumerate(new_axes):
            axes[axis] = tuple(digits) if digits_of_axes is None else digits_of_axes[position]
    return _rearranged(view, axes, begins, exact=is_exact)


def sliced(
    view: View,
    shape: Sequence[int],
    start: Sequence[int],
    limit: Sequence[int],
    strides: Sequence[int] | None = None,
) -> View | None:
    """Returns the view of a slice of the value; `None` if no element of the parameter is in it."""
    axes = list(view.axes)
    begins = list(view.begins)
    starts = list(view.starts)
    is_exact = view.exact
    for axis, (lower, upper) in enumerate(zip(start, limit, strict=True)):
        axis_stride = 1 if strides is None else strides[axis]
        if lower == 0 and upper == shape[axis] and axis_stride == 1:
            continue
        digits = axes[axis] or (Digit(REPEATED, 1, 0),)
        major_digit, *minor_digits = digits
        block_size = math.prod(digit.size for digit in minor_digits)
        is_aligned = axis_stride == 1 and not any(
            bound % block_size for bound in (lower, upper, view.begins[axis])
        )
        if minor_digits and not is_aligned:
            is_exact = False
            begins[axis] = 0
            continue
        begin_block = view.begins[axis] // block_size
        first_index = max(lower // block_size, begin_block)
        first_index += -(first_index - lower // block_size) % axis_stride
        end_index = min(upper // block_size, begin_block + major_digit.size)
        if first_index >= end_index:
            return None
        index_count = -(-(end_index - first_index) // axis_stride)
        axes[axis] = (
            Digit(major_digit.axis, index_count, major_digit.stride * axis_stride),
            *minor_digits,
        )
        begins[axis] = (first_index - lower // block_size) // axis_stride * block_size
        if major_digit.axis != REPEATED:
            starts[major_digit.axis] += major_digit.stride * (first_index - begin_block)
    return _rearranged(view, axes, begins, starts=tuple(starts), exact=is_exact)


def picked(view: View, shape: Sequence[int], axis: int, size: int, index: Any) -> View:
    """Returns the view of `size` indices of an axis, from an index on that the program computes."""
    digits = view.axes[axis] or (Digit(REPEATED, 1, 0),)
    major_digit, *minor_digits = digits
    block_size = math.prod(digit.size for digit in minor_digits)
    is_whole = view.begins[axis] == 0 and view.extent(axis) == shape[axis]
    if not is_whole or size % block_size or minor_digits:
        return view.inexact()
    axes = list(view.axes)
    axes[axis] = (Digit(major_digit.axis, size, major_digit.stride),)
    picks = view.picks
    if major_digit.axis != REPEATED:
        picks = (*picks, Pick(major_digit.axis, major_digit.stride, index, shape[axis] - size))
    return _rearranged(view, axes, view.begins, picks=picks)


def gathered(view: View, sources: Sequence[Sequence[int]]) -> View:
    """Returns the view of elements at many places that the program computes: axes known, positions not.

    Args:
      view: of the value.
      sources: per axis of the result, the axes of the value that its indices come from.
    """
    axes = [
        tuple(digit for source in source_axes for digit in view.axes[source])
        for source_axes in sources
    ]
    return _rearranged(view, axes, [0] * len(axes), exact=False)


def placed(view: View, axis: int, begin: int) -> View:
    """Returns the view of a larger value that holds this one from an index of an axis on."""
    begins = list(view.begins)
    begins[axis] += begin
    return _rearranged(view, view.axes, begins)


def reversed_along(view: View, shape: Sequence[int], dimensions: Sequence[int]) -> View:
    """Returns the view of the value with some axes reversed."""
    axes = list(view.axes)
    begins = list(view.begins)
    starts = list(view.starts)
    is_exact = view.exact
    for axis in dimensions:
        if len(axes[axis]) > 1:
            is_exact = False
            continue
        for digit in axes[axis]:
            axes[axis] = (Digit(digit.axis, digit.size, -digit.stride),)
            if digit.axis != REPEATED:
                starts[digit.axis] += digit.stride * (digit.size - 1)
        begins[axis] = shape[axis] - begins[axis] - view.extent(axis)
    return _rearranged(view, axes, begins, starts=tuple(starts), exact=is_exact)


def iterated(view: View, shape: Sequence[int], depth: int) -> View:
    """Returns the view of the row that each iteration of a loop takes; `depth` is that of the loop."""
    is_whole = view.begins[0] == 0 and view.extent(0) == shape[0]
    loops = [Loop(depth, digit) for digit in view.axes[0] if digit.axis != REPEATED]
    has_several_digits = len(loops) > 1  # no single count of iterations
    row_view = squeezed(view, [0])
    is_exact = view.exact and is_whole and not has_several_digits
    return dataclasses.replace(row_view, loops=(*view.loops, *loops), exact=is_exact)


def contracted(
    view: View, summed: Sequence[int], kept: Sequence[int | None], shape: Sequence[int]
) -> View:
    """Returns the view of the product of the value with another parameter's.

    Args:
      view: of the value.
      summed: axes of the value that the product sums over.
      kept: per axis of the product, the axis of the value that it is; `None`: the other operand's.
      shape: of the product.
    """
    summed_leaf_axes = {digit.axis for axis in summed for digit in view.axes[axis]}
    axes = [
        (Digit(REPEATED, size, 0),) if axis is None else view.axes[axis]
        for axis, size in zip(kept, shape, strict=True)
    ]
    begins = [0 if axis is None else view.begins[axis] for axis in kept]
    earlier_axes = view.inner or ()
    return _rearranged(
        view,
        axes,
        begins,
        inner=(*earlier_axes, *sorted(summed_leaf_axes - {REPEATED})),
        rank=math.prod(map(view.extent, summed)),
        exact=False,
    )
