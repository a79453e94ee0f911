"""Which indices of a parameter lie along which axis of a value that is made of it.

A kernel is seldom multiplied as it is stored: it is transposed, reshaped, sliced, stacked, indexed by a loop.
All of these keep an index of the leaf an affine function of the indices of the value. A `Digit` is one term
of that function: a value's axis that merges heads and head size has two digits, the slice `w[:, 1]` has none
for the axis that it picks from.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = [
    "Digit",
    "Loop",
    "Pick",
    "View",
    "broadcast",
    "contracted",
    "gathered",
    "inserted",
    "iterated",
    "of_leaf",
    "picked",
    "placed",
    "reshaped",
    "reversed_along",
    "sliced",
    "squeezed",
    "tiled",
    "transposed",
]

_REPEATED = -1  # in the place of a leaf's axis: the value repeats what it has, as a broadcast does


class Digit(NamedTuple):
    """One term of an index: as `i` runs from 0 to `size - 1`, the leaf's index moves by `stride * i`.

    Attributes:
      axis: of the leaf; -1 where the value repeats itself instead.
      size: how many values `i` takes.
      stride: of the leaf's index.
    """

    axis: int
    size: int
    stride: int


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
      index: holds an integer while the program runs (`kernels.Held`); `None` while it is only read.
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
      exact: whether all this is so; if not, the digits still name the axes of the parameter.
      inner: axes of the parameter that were summed over in a product with another parameter, as those of the
        factors of a low-rank update are; `None`: it is no factor.
      rank: over how many numbers that product sums.
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
        """How many indices of an axis of the value are elements of the parameter."""
        return math.prod(digit.size for digit in self.axes[axis])

    def repeats(self, axis: int) -> bool:
        """Whether the value has the same elements at each of several indices of an axis."""
        digits = [digit for digit in self.axes[axis] if digit.size > 1]
        return bool(digits) and all(digit.axis == _REPEATED for digit in digits)

    def partly_repeats(self) -> bool:
        """Whether an axis of the value goes through the same elements again and again."""
        return any(d.axis == _REPEATED and d.size > 1 for axis in self.axes for d in axis)

    def spans(self, digit: Digit) -> bool:
        """Whether a digit goes through a whole axis of the parameter."""
        return digit.axis >= 0 and digit.size == self.shape[digit.axis]

    def inexact(self) -> "View":
        """The same axes, without the claim that positions are known."""
        return dataclasses.replace(self, exact=False)


def of_leaf(leaf: int, shape: Sequence[int]) -> View:
    """A parameter as it is stored."""
    axes = tuple((Digit(axis, size, 1),) for axis, size in enumerate(shape))
    nothing = (0,) * len(shape)
    return View(leaf, axes, nothing, nothing, shape=tuple(shape))


def _rearranged(
    view: View, axes: Sequence[tuple[Digit, ...]], begins: Sequence[int], **changes: Any
) -> View:
    return dataclasses.replace(view, axes=tuple(axes), begins=tuple(begins), **changes)


def transposed(view: View, permutation: Sequence[int]) -> View:
    """The value with its axes in another order."""
    axes = [view.axes[axis] for axis in permutation]
    return _rearranged(view, axes, [view.begins[axis] for axis in permutation])


def squeezed(view: View, gone: Sequence[int]) -> View:
    """The value without axes of length 1."""
    kept = [axis for axis in range(len(view.axes)) if axis not in gone]
    return transposed(view, kept)


def inserted(view: View, new: Sequence[int]) -> View:
    """The value with axes of length 1 at the places `new` of the result."""
    ndim = len(view.axes) + len(new)
    old = iter(range(len(view.axes)))
    sources = [None if axis in new else next(old) for axis in range(ndim)]
    axes = [() if source is None else view.axes[source] for source in sources]
    begins = [0 if source is None else view.begins[source] for source in sources]
    return _rearranged(view, axes, begins)


def broadcast(
    view: View, shape: Sequence[int], new_shape: Sequence[int], placement: Sequence[int]
) -> View:
    """The value repeated along new axes, and along those of length 1.

    Args:
      view: of the value.
      shape: of the value.
      new_shape: of the result.
      placement: per axis of the value, its axis of the result.
    """
    source = {new: old for old, new in enumerate(placement)}
    axes: list[tuple[Digit, ...]] = []
    begins: list[int] = []
    for axis, size in enumerate(new_shape):
        old = source.get(axis)
        if old is not None and shape[old] == size:
            axes.append(view.axes[old])
            begins.append(view.begins[old])
        else:
            axes.append((Digit(_REPEATED, size, 0),))
            begins.append(0)
    return _rearranged(view, axes, begins)


def tiled(view: View, repetitions: Sequence[int]) -> View:
    """The value several times along each axis, one after the other."""
    axes = [
        (Digit(_REPEATED, times, 0), *own) if times > 1 else own
        for own, times in zip(view.axes, repetitions, strict=True)
    ]
    exact = view.exact and not any(view.begins)
    return _rearranged(view, axes, view.begins, exact=exact)


def reshaped(view: View, shape: Sequence[int], new_shape: Sequence[int]) -> View:
    """The value in another shape.

    Axes are compared in runs of the same number of elements; within a run digits are merged and split. Where
    a size does not split at a digit, the axes of the result hold all digits of the run, no longer exact.
    """
    axes: list[tuple[Digit, ...]] = [()] * len(new_shape)
    begins = [0] * len(new_shape)
    exact = view.exact
    for old, new in _runs(shape, new_shape):
        if len(old) == 1 and len(new) == 1:
            axes[new[0]] = view.axes[old[0]]
            begins[new[0]] = view.begins[old[0]]
            continue
        whole = all(view.extent(axis) == shape[axis] for axis in old)
        digits = [digit for axis in old for digit in view.axes[axis] if digit.size > 1]
        split = _split(digits, [new_shape[axis] for axis in new]) if whole else None
        exact = exact and split is not None
        for place, axis in enumerate(new):
            axes[axis] = tuple(digits) if split is None else split[place]
    return _rearranged(view, axes, begins, exact=exact)


def _runs(shape: Sequence[int], new_shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes of both shapes that hold the same elements, in the shortest runs; those of length 1 in none."""
    old = [axis for axis, size in enumerate(shape) if size != 1]
    new = [axis for axis, size in enumerate(new_shape) if size != 1]
    ones = [axis for axis, size in enumerate(new_shape) if size == 1]
    kept_ones = [axis for axis, size in enumerate(shape) if size == 1]
    runs: list[tuple[list[int], list[int]]] = []
    while old and new:
        left = [old.pop(0)]
        right = [new.pop(0)]
        while (a := math.prod(shape[i] for i in left)) != (
            b := math.prod(new_shape[i] for i in right)
        ):
            if a < b and old:
                left.append(old.pop(0))
            elif new:
                right.append(new.pop(0))
            else:
                break
        runs.append((left, right))
    if len(shape) == len(new_shape):  # axes of length 1 that stay in their places keep their digits
        runs += [([axis], [axis]) for axis in ones if axis in kept_ones]
    return runs


def _split(digits: Sequence[Digit], sizes: Sequence[int]) -> list[tuple[Digit, ...]] | None:
    """Digits for axes of these sizes, the slowest first; `None` if a size ends within a digit."""
    rest = list(digits)
    axes: list[tuple[Digit, ...]] = []
    for size in sizes:
        own: list[Digit] = []
        left = size
        while left > 1:
            if not rest:
                return None
            digit = rest.pop(0)
            if left % digit.size == 0:
                own.append(digit)
                left //= digit.size
            elif digit.size % left == 0:
                minor = digit.size // left
                own.append(Digit(digit.axis, left, digit.stride * minor))
                rest.insert(0, Digit(digit.axis, minor, digit.stride))
                left = 1
            else:
                return None
        axes.append(_merged(own))
    return axes


def _merged(digits: Sequence[Digit]) -> tuple[Digit, ...]:
    """Neighbouring digits that are one run of the same axis, as one."""
    merged: list[Digit] = []
    for digit in digits:
        last = merged[-1] if merged else None
        if last and last.axis == digit.axis and last.stride == digit.stride * digit.size:
            merged[-1] = Digit(digit.axis, last.size * digit.size, digit.stride)
        else:
            merged.append(digit)
    return tuple(merged)


def sliced(
    view: View,
    shape: Sequence[int],
    start: Sequence[int],
    limit: Sequence[int],
    strides: Sequence[int] | None = None,
) -> View | None:
    """Some indices of each axis of the value; `None` if no element of the parameter is among them."""
    axes = list(view.axes)
    begins = list(view.begins)
    starts = list(view.starts)
    exact = view.exact
    for axis, (low, high) in enumerate(zip(start, limit, strict=True)):
        step = 1 if strides is None else strides[axis]
        if low == 0 and high == shape[axis] and step == 1:
            continue
        digits = axes[axis] or (Digit(_REPEATED, 1, 0),)
        major, *minor = digits
        block = math.prod(digit.size for digit in minor)
        aligned = step == 1 and not any(n % block for n in (low, high, view.begins[axis]))
        if minor and not aligned:
            exact = False
            begins[axis] = 0
            continue
        offset = view.begins[axis] // block
        first = max(low // block, offset)
        first += -(first - low // block) % step
        last = min(high // block, offset + major.size)  # the first index behind
        if first >= last:
            return None
        count = -(-(last - first) // step)
        axes[axis] = (Digit(major.axis, count, major.stride * step), *minor)
        begins[axis] = (first - low // block) // step * block
        if major.axis != _REPEATED:
            starts[major.axis] += major.stride * (first - offset)
    return _rearranged(view, axes, begins, starts=tuple(starts), exact=exact)


def picked(view: View, shape: Sequence[int], axis: int, size: int, index: Any) -> View:
    """`size` indices of an axis of the value, from one on that the program computes."""
    digits = view.axes[axis] or (Digit(_REPEATED, 1, 0),)
    major, *minor = digits
    block = math.prod(digit.size for digit in minor)
    whole = view.begins[axis] == 0 and view.extent(axis) == shape[axis]
    if not whole or size % block or minor:
        return view.inexact()
    axes = list(view.axes)
    axes[axis] = (Digit(major.axis, size, major.stride),)
    picks = view.picks
    if major.axis != _REPEATED:
        picks = (*picks, Pick(major.axis, major.stride, index, shape[axis] - size))
    return _rearranged(view, axes, view.begins, picks=picks)


def gathered(view: View, sources: Sequence[Sequence[int]]) -> View:
    """Elements at many places that the program computes: the axes are known, the positions are not.

    Args:
      view: of the value.
      sources: per axis of the result, the axes of the value that its indices come from.
    """
    axes = [tuple(digit for source in own for digit in view.axes[source]) for own in sources]
    return _rearranged(view, axes, [0] * len(axes), exact=False)


def placed(view: View, axis: int, begin: int) -> View:
    """The value as a part of a larger one, from an index on."""
    begins = list(view.begins)
    begins[axis] += begin
    return _rearranged(view, view.axes, begins)


def reversed_along(view: View, shape: Sequence[int], dimensions: Sequence[int]) -> View:
    """The value with the order of some axes turned round."""
    axes = list(view.axes)
    begins = list(view.begins)
    starts = list(view.starts)
    exact = view.exact
    for axis in dimensions:
        if len(axes[axis]) > 1:
            exact = False
            continue
        for digit in axes[axis]:
            axes[axis] = (Digit(digit.axis, digit.size, -digit.stride),)
            if digit.axis != _REPEATED:
                starts[digit.axis] += digit.stride * (digit.size - 1)
        begins[axis] = shape[axis] - begins[axis] - view.extent(axis)
    return _rearranged(view, axes, begins, starts=tuple(starts), exact=exact)


def iterated(view: View, shape: Sequence[int], depth: int) -> View:
    """A row of the value in each iteration of a loop at this depth."""
    whole = view.begins[0] == 0 and view.extent(0) == shape[0]
    loops = [Loop(depth, digit) for digit in view.axes[0] if digit.axis != _REPEATED]
    several = len(loops) > 1  # no single count of iterations
    rest = squeezed(view, [0])
    exact = view.exact and whole and not several
    return dataclasses.replace(rest, loops=(*view.loops, *loops), exact=exact)


def contracted(
    view: View, summed: Sequence[int], kept: Sequence[int | None], shape: Sequence[int]
) -> View:
    """The product of the value with another parameter's.

    Args:
      view: of the value.
      summed: axes of the value that the product sums over.
      kept: per axis of the product, the axis of the value that it is; `None`: the other operand's.
      shape: of the product.
    """
    inner = {digit.axis for axis in summed for digit in view.axes[axis]}
    axes = [
        (Digit(_REPEATED, size, 0),) if axis is None else view.axes[axis]
        for axis, size in zip(kept, shape, strict=True)
    ]
    begins = [0 if axis is None else view.begins[axis] for axis in kept]
    before = view.inner or ()
    return _rearranged(
        view,
        axes,
        begins,
        inner=(*before, *sorted(inner - {_REPEATED})),
        rank=math.prod(map(view.extent, summed)),
        exact=False,
    )
