"""To which indices of a parameter belongs what has been read of a kernel (`programs.evaluation`).

What is read lies along axes of the kernel, and along the loops around it. Each of these is cut into the
digits of its view; each digit moves the index of one axis of the parameter.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.programs.readings import Record
from jaxprune.programs.views import Digit, Pick, View

__all__ = ["Arrangement", "Dimensions", "Index", "Term", "arrangement", "indifferent"]


class Term(NamedTuple):
    """As a dimension of an array is gone through, an index moves by `stride`."""

    dimension: int
    size: int
    stride: int


class Index(NamedTuple):
    """Which indices of one axis the dimensions of an array belong to: a sum of terms.

    Attributes:
      start: where it begins.
      terms: what dimensions add to it.
      picks: what computed numbers add to it; their indices are those of `Observed.emitted`.
    """

    start: int = 0
    terms: tuple[Term, ...] = ()
    picks: tuple[Pick, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether it depends on where in the array one is."""
        return bool(self.terms or self.picks)


class Cut(NamedTuple):
    """What is done to an axis of an array, before it is cut into digits: repeated, then sliced."""

    times: int
    begin: int
    extent: int


class Dimensions(NamedTuple):
    """How the axes of an array become dimensions.

    Attributes:
      loops: number of loops, whose dimensions come first.
      layers: number of the next axes of the array.
      cuts: of these axes, and of those of the entries that follow.
      sizes: of the dimensions that all of them become.
      shared: how many of the dimensions are those of loops and layers.
    """

    loops: int
    layers: int
    cuts: tuple[Cut, ...]
    sizes: tuple[int, ...]
    shared: int


class Arrangement(NamedTuple):
    """What the dimensions of an array are to the axes of a parameter.

    Attributes:
      dimensions: of the array.
      indices: per axis of the parameter.
      doubled: the same for the second copy of the entries of a matrix.
      free: per axis of the parameter, digits that make no difference to the array.
    """

    dimensions: Dimensions
    indices: tuple[Index, ...]
    doubled: tuple[Index, ...]
    free: tuple[tuple[Digit, ...], ...]

    def covered(self, axis: int) -> np.ndarray:
        """The indices of an axis that digits which make no difference run through."""
        covered = np.array([self.indices[axis].start])
        for digit in self.free[axis]:
            covered = np.add.outer(covered, digit.stride * np.arange(digit.size)).ravel()
        return np.unique(covered)

    def but_for(self, axis: int) -> "Arrangement":
        """The same without one axis of the parameter."""
        rest = [a for a in range(len(self.free)) if a != axis]
        return self._replace(
            indices=tuple(self.indices[a] for a in rest),
            doubled=tuple(self.doubled[a] for a in rest),
            free=tuple(self.free[a] for a in rest),
        )


def arrangement(record: Record, *, copies: int = 1) -> Arrangement:
    """Returns to which indices of the parameter belongs what has been read of one of its uses.

    Args:
      record: of the use.
      copies: 2 where a matrix was read, with its entries along two axes each.
    """
    view = record.use.view
    terms: list[list[list[Term]]] = [[[] for _ in view.starts] for _ in range(2)]
    for loop in view.loops:
        terms[0][loop.digit.axis].append(Term(loop.depth, loop.digit.size, loop.digit.stride))
    read = [(axis, 0) for axis in record.layers]
    read += [(axis, copy) for copy in range(copies) for axis in record.entries]
    sizes = list(record.lengths)
    shared = len(sizes)
    cuts: list[Cut] = []
    for axis, copy in read:
        cut, digits, _ = _cut(record, axis)
        cuts.append(cut)
        for digit in digits:
            if digit.axis >= 0:
                terms[copy][digit.axis].append(Term(len(sizes), digit.size, digit.stride))
            sizes.append(digit.size)
        shared = len(sizes) if len(cuts) <= len(record.layers) else shared
    first, second = (_indices(view, of_copy) for of_copy in terms)
    loops = len(record.lengths)
    dimensions = Dimensions(loops, len(record.layers), tuple(cuts), tuple(sizes), shared)
    return Arrangement(dimensions, first, second, _free(record))


def _indices(view: View, terms: Sequence[Sequence[Term]]) -> tuple[Index, ...]:
    """Per axis of the parameter, where the view begins, its terms, and what it picks."""
    return tuple(
        Index(start, tuple(own), tuple(pick for pick in view.picks if pick.axis == axis))
        for axis, (start, own) in enumerate(zip(view.starts, terms, strict=True))
    )


def _free(record: Record) -> tuple[tuple[Digit, ...], ...]:
    """Per axis of the parameter, the digits of its view along which nothing was read."""
    view = record.use.view
    free: list[list[Digit]] = [[] for _ in view.starts]
    for axis, digits in enumerate(view.axes):
        read = axis in record.layers or axis in record.entries
        for digit in _cut(record, axis)[2] if read else digits:
            if digit.axis >= 0:
                free[digit.axis].append(digit)
    return tuple(map(tuple, free))


def _cut(record: Record, axis: int) -> tuple[Cut, Sequence[Digit], Sequence[Digit]]:
    """What is done to the array along an axis of the kernel, its digits, and those that do not matter."""
    view = record.use.view
    digits = view.axes[axis]
    groups = record.use.groups
    whole = Cut(1, view.begins[axis], view.extent(axis))
    if groups == 1 or record.use.roles[axis] != "out" or axis in record.entries:
        return whole, digits, ()
    # The array has one index for each group of outputs.
    entire = view.extent(axis) == record.shape[axis]
    for count in range(len(digits) + 1):
        if entire and math.prod(digit.size for digit in digits[:count]) == groups:
            return Cut(1, 0, groups), digits[:count], digits[count:]
    return whole._replace(times=record.shape[axis] // groups), digits, ()


def indifferent(
    arrangements: Sequence[Arrangement], statistics: Sequence[int], shape: Sequence[int]
) -> set[int]:
    """The axes of a parameter along which what was read is the same at each index.

    Args:
      arrangements: of the uses of the parameter.
      statistics: what was read of each.
      shape: of the parameter.
    """
    return {
        axis
        for axis, size in enumerate(shape)
        if not any(own.indices[axis].moves for own in arrangements)
        and _covers(arrangements, statistics, axis, size)
    }


def _covers(
    arrangements: Sequence[Arrangement], statistics: Sequence[int], axis: int, size: int
) -> bool:
    """Whether uses of which the same was read have together the whole of an axis."""
    covered: dict[Any, set[int]] = {}
    for own, statistic in zip(arrangements, statistics, strict=True):
        known = covered.setdefault((statistic, own.but_for(axis)), set())
        known |= set(own.covered(axis).tolist())
    return all(len(own) == size for own in covered.values())
