"""Digits of an index: how axes of one size are split and merged into axes of another.

An axis of length 6 that was made of axes of lengths 2 and 3 has two digits. Reshaping it to `[2, 3]` gives
each digit an axis of its own; reshaping it to `[3, 2]` splits no digit evenly, and gives nothing.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["REPEATED", "Digit", "merge_digits", "runs_of_equal_size", "split_digits"]

REPEATED = -1  # stands for a leaf's axis where the value repeats its elements, as a broadcast does


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


def runs_of_equal_size(
    shape: Sequence[int], new_shape: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Returns pairs of runs of axes, of the old and the new shape, that hold the same elements.

    Runs are as short as possible. Axes of length 1 are in none, but where both shapes have one in the same
    place.

    >>> runs_of_equal_size((4, 6), (2, 2, 6))
    [([0], [0, 1]), ([1], [2])]
    """
    old_axes = [axis for axis, size in enumerate(shape) if size != 1]
    new_axes = [axis for axis, size in enumerate(new_shape) if size != 1]
    new_unit_axes = [axis for axis, size in enumerate(new_shape) if size == 1]
    old_unit_axes = [axis for axis, size in enumerate(shape) if size == 1]
    runs: list[tuple[list[int], list[int]]] = []
    while old_axes and new_axes:
        old_run = [old_axes.pop(0)]
        new_run = [new_axes.pop(0)]
        while (old_size := math.prod(shape[run_axis] for run_axis in old_run)) != (
            new_size := math.prod(new_shape[run_axis] for run_axis in new_run)
        ):
            if old_size < new_size and old_axes:
                old_run.append(old_axes.pop(0))
            elif new_axes:
                new_run.append(new_axes.pop(0))
            else:
                break
        runs.append((old_run, new_run))
    if len(shape) == len(new_shape):  # axes of length 1 that stay in their places keep their digits
        runs += [([axis], [axis]) for axis in new_unit_axes if axis in old_unit_axes]
    return runs


def split_digits(digits: Sequence[Digit], sizes: Sequence[int]) -> list[tuple[Digit, ...]] | None:
    """Returns the digits of axes of these sizes, the slowest first; `None` if a size ends within a digit.

    >>> split_digits([Digit(axis=0, size=6, stride=1)], [2, 3])
    [(Digit(axis=0, size=2, stride=3),), (Digit(axis=0, size=3, stride=1),)]
    """
    remaining_digits = list(digits)
    axes: list[tuple[Digit, ...]] = []
    for size in sizes:
        axis_digits: list[Digit] = []
        remaining_size = size
        while remaining_size > 1:
            if not remaining_digits:
                return None
            digit = remaining_digits.pop(0)
            if remaining_size % digit.size == 0:
                axis_digits.append(digit)
                remaining_size //= digit.size
            elif digit.size % remaining_size == 0:
                minor_size = digit.size // remaining_size
                axis_digits.append(Digit(digit.axis, remaining_size, digit.stride * minor_size))
                remaining_digits.insert(0, Digit(digit.axis, minor_size, digit.stride))
                remaining_size = 1
            else:
                return None
        axes.append(merge_digits(axis_digits))
    return axes


def merge_digits(digits: Sequence[Digit]) -> tuple[Digit, ...]:
    """Returns the digits with neighbours merged that together run through one axis without a gap."""
    merged: list[Digit] = []
    for digit in digits:
        last_digit = merged[-1] if merged else None
        if (
            last_digit
            and last_digit.axis == digit.axis
            and last_digit.stride == digit.stride * digit.size
        ):
            merged[-1] = Digit(digit.axis, last_digit.size * digit.size, digit.stride)
        else:
            merged.append(digit)
    return tuple(merged)
