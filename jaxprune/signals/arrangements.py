"""Maps the axes of a statistic that was read of a kernel to the indices of its parameter.

A statistic (`programs.evaluation`) lies along axes of the kernel, and along the loops around it. Each of
these is cut into the digits of its view; each digit moves the index of one axis of the parameter.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune.programs.digits import Digit
from jaxprune.programs.readings import Record
from jaxprune.programs.views import Pick, View

__all__ = ["Arrangement", "Dimensions", "Index", "Term", "arrangement", "indifferent_axes"]


class Term(NamedTuple):
    """One dimension of an array moves an index: by `stride` for each of its `size` steps."""

    dimension: int
    size: int
    stride: int


class Index(NamedTuple):
    """Index along one axis of a parameter as a sum of terms, one per dimension of an array.

    Attributes:
      start: the index at which it begins.
      terms: what dimensions add to it.
      picks: what computed indices add to it; they are found by their place in `Observations.emitted`.
    """

    start: int = 0
    terms: tuple[Term, ...] = ()
    picks: tuple[Pick, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether the index depends on the place in the array."""
        return bool(self.terms or self.picks)


class Cut(NamedTuple):
    """How an axis of an array is repeated, then sliced, before it is cut into digits."""

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
      shared: number of dimensions of loops and layers.
    """

    loops: int
    layers: int
    cuts: tuple[Cut, ...]
    sizes: tuple[int, ...]
    shared: int


class Arrangement(NamedTuple):
    """Maps the dimensions of an array to indices along the axes of a parameter.

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

    def covered_indices(self, axis: int) -> np.ndarray:
        """Returns the indices of an axis that digits which make no difference run through."""
        indices = np.array([self.indices[axis].start])
        for digit in self.free[axis]:
            indices = np.add.outer(indices, digit.stride * np.arange(digit.size)).ravel()
        return np.unique(indices)

    def without_axis(self, axis: int) -> "Arrangement":
        """Returns the arrangement without one axis of the parameter."""
        other_axes = [other_axis for other_axis in range(len(self.free)) if other_axis != axis]
        return self._replace(
            indices=tuple(self.indices[other_axis] for other_axis in other_axes),
            doubled=tuple(self.doubled[other_axis] for other_axis in other_axes),
            free=tuple(self.free[other_axis] for other_axis in other_axes),
        )


def arrangement(record: Record, *, copies: int = 1) -> Arrangement:
    """Returns to which indices of the parameter the statistic of one of its uses belongs.

    Args:
      record: of the use.
      copies: 2 where the statistic is a matrix, with its entries along two axes each; 1 otherwise.
    """
    view = record.use.view
    terms: list[list[list[Term]]] = [[[] for _ in view.starts] for _ in range(2)]
    for loop in view.loops:
        terms[0][loop.digit.axis].append(Term(loop.depth, loop.digit.size, loop.digit.stride))
    axes_and_copies = [(axis, 0) for axis in record.layers]
    axes_and_copies += [(axis, copy) for copy in range(copies) for axis in record.entries]
    sizes = list(record.lengths)
    number_of_shared = len(sizes)
    cuts: list[Cut] = []
    for axis, copy in axes_and_copies:
        cut, digits, _ = _cut_axis(record, axis)
        cuts.append(cut)
        for digit in digits:
            if digit.axis >= 0:
                terms[copy][digit.axis].append(Term(len(sizes), digit.size, digit.stride))
            sizes.append(digit.size)
        number_of_shared = len(sizes) if len(cuts) <= len(record.layers) else number_of_shared
    indices, doubled_indices = (_indices(view, copy_terms) for copy_terms in terms)
    number_of_loops = len(record.lengths)
    dimensions = Dimensions(
        number_of_loops, len(record.layers), tuple(cuts), tuple(sizes), number_of_shared
    )
    return Arrangement(dimensions, indices, doubled_indices, _free_digits(record))


def _indices(view: View, terms: Sequence[Sequence[Term]]) -> tuple[Index, ...]:
    """Returns per axis of the parameter where the view begins, its terms, and its computed indices."""
    return tuple(
        Index(start, tuple(axis_terms), tuple(pick for pick in view.picks if pick.axis == axis))
        for axis, (start, axis_terms) in enumerate(zip(view.starts, terms, strict=True))
    )


def _free_digits(record: Record) -> tuple[tuple[Digit, ...], ...]:
    """Returns per axis of the parameter the digits of its view along which nothing was read."""
    view = record.use.view
    free_digits: list[list[Digit]] = [[] for _ in view.starts]
    for axis, digits in enumerate(view.axes):
        is_read = axis in record.layers or axis in record.entries
        for digit in _cut_axis(record, axis)[2] if is_read else digits:
            if digit.axis >= 0:
                free_digits[digit.axis].append(digit)
    return tuple(map(tuple, free_digits))


def _cut_axis(record: Record, axis: int) -> tuple[Cut, Sequence[Digit], Sequence[Digit]]:
    """Returns the cut of the array along an axis of the kernel, its digits, and those without effect."""
    view = record.use.view
    digits = view.axes[axis]
    groups = record.use.groups
    uncut = Cut(1, view.begins[axis], view.extent(axis))
    if groups == 1 or record.use.roles[axis] != "out" or axis in record.entries:
        return uncut, digits, ()
    # The array has one index for each group of outputs.
    is_complete = view.extent(axis) == record.shape[axis]
    for count in range(len(digits) + 1):
        if is_complete and math.prod(digit.size for digit in digits[:count]) == groups:
            return Cut(1, 0, groups), digits[:count], digits[count:]
    return uncut._replace(times=record.shape[axis] // groups), digits, ()


def indifferent_axes(
    arrangements: Sequence[Arrangement], statistics: Sequence[int], shape: Sequence[int]
) -> set[int]:
    """Returns the axes of a parameter along which its statistic is the same at each index.

    Args:
      arrangements: of the uses of the parameter.
      statistics: index of the statistic of each use.
      shape: of the parameter.
    """
    return {
        axis
        for axis, size in enumerate(shape)
        if not any(arrangement_of_use.indices[axis].moves for arrangement_of_use in arrangements)
        and _covers(arrangements, statistics, axis, size)
    }


def _covers(
    arrangements: Sequence[Arrangement], statistics: Sequence[int], axis: int, size: int
) -> bool:
    """Whether uses with the same statistic cover together the whole of an axis."""
    covered_by_group: dict[Any, set[int]] = {}
    for arrangement_of_use, statistic in zip(arrangements, statistics, strict=True):
        covered_indices = covered_by_group.setdefault(
            (statistic, arrangement_of_use.without_axis(axis)), set()
        )
        covered_indices |= set(arrangement_of_use.covered_indices(axis).tolist())
    return all(len(indices) == size for indices in covered_by_group.values())
