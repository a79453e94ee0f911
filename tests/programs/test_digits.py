"""Axes of one size are split and merged into axes of another, digit by digit."""

import math

import pytest

from jaxprune.programs.digits import Digit, merge_digits, runs_of_equal_size, split_digits

RUNS = [
    ((4, 6), (24,), [([0, 1], [0])]),
    ((24,), (2, 3, 4), [([0], [0, 1, 2])]),
    ((4, 6), (2, 2, 6), [([0], [0, 1]), ([1], [2])]),
    ((4, 1, 6), (4, 6), [([0], [0]), ([2], [1])]),
    ((2, 3), (3, 2), [([0, 1], [0, 1])]),
]


@pytest.mark.parametrize(("shape", "new_shape", "runs"), RUNS)
def test_runs_hold_the_same_elements(shape, new_shape, runs):
    assert runs_of_equal_size(shape, new_shape) == runs
    for old_axes, new_axes in runs:
        sizes = [shape[axis] for axis in old_axes]
        assert math.prod(sizes) == math.prod(new_shape[axis] for axis in new_axes)


def test_an_axis_is_split_into_the_digits_of_new_axes():
    axis = Digit(axis=0, size=12, stride=1)
    assert split_digits([axis], [3, 4]) == [(Digit(0, 3, 4),), (Digit(0, 4, 1),)]
    assert split_digits([axis], [1, 12]) == [(), (axis,)]


def test_a_size_that_ends_within_a_digit_cannot_be_split():
    digits = [Digit(axis=0, size=2, stride=1), Digit(axis=1, size=3, stride=1)]
    assert split_digits(digits, [3, 2]) is None


def test_what_was_split_merges_again():
    parts = split_digits([Digit(axis=0, size=12, stride=1)], [3, 4])
    assert parts is not None
    assert merge_digits([*parts[0], *parts[1]]) == (Digit(axis=0, size=12, stride=1),)


def test_digits_of_different_axes_do_not_merge():
    digits = (Digit(axis=0, size=2, stride=3), Digit(axis=1, size=3, stride=1))
    assert merge_digits(digits) == digits
