"""A view tells which element of a parameter stands where: the same as NumPy, on an array of indices."""

import itertools

import numpy as np
import pytest

from jaxprune.programs import views
from jaxprune.programs.views import View, view_of_leaf

SHAPE = (4, 6)
LEAF = np.arange(24).reshape(SHAPE)  # each element is its own flat index
WHOLE = view_of_leaf(0, SHAPE)


def elements(view: View, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the flat indices of the parameter's elements by their places in a value; -1 elsewhere."""
    result = np.full(shape, -1)
    digits = [(axis, digit) for axis, digits in enumerate(view.axes) for digit in digits]
    for steps in itertools.product(*(range(digit.size) for _, digit in digits)):
        place = list(view.begins)
        for axis in range(len(shape)):
            offset = 0
            for (digit_axis, digit), step in zip(digits, steps, strict=True):
                offset = offset * digit.size + step if digit_axis == axis else offset
            place[axis] += offset
        index = list(view.starts)
        for (_, digit), step in zip(digits, steps, strict=True):
            if digit.axis >= 0:
                index[digit.axis] += digit.stride * step
        result[tuple(place)] = np.ravel_multi_index(index, view.shape)
    return result


def padded(value: np.ndarray) -> np.ndarray:
    return np.pad(value, ((2, 0), (0, 0)), constant_values=-1)


CASES = {
    "as it is stored": (WHOLE, LEAF),
    "transposed": (views.transposed(WHOLE, (1, 0)), LEAF.T),
    "axes of length 1": (views.inserted(WHOLE, [1]), LEAF[:, None]),
    "broadcast": (
        views.broadcast(WHOLE, SHAPE, (4, 3, 6), (0, 2)),
        np.broadcast_to(LEAF[:, None], (4, 3, 6)),
    ),
    "tiled": (views.tiled(WHOLE, (2, 1)), np.tile(LEAF, (2, 1))),
    "flat": (views.reshaped(WHOLE, SHAPE, (24,)), LEAF.reshape(24)),
    "split": (views.reshaped(WHOLE, SHAPE, (2, 2, 3, 2)), LEAF.reshape(2, 2, 3, 2)),
    "sliced": (views.sliced(WHOLE, SHAPE, (1, 0), (3, 6)), LEAF[1:3]),
    "sliced with strides": (views.sliced(WHOLE, SHAPE, (1, 1), (4, 6), (2, 3)), LEAF[1:4:2, 1:6:3]),
    "placed": (views.placed(WHOLE, 0, 2), padded(LEAF)),
    "sliced where it was placed": (
        views.sliced(views.placed(WHOLE, 0, 2), (6, 6), (1, 0), (4, 6)),
        padded(LEAF)[1:4],
    ),
    "reversed": (views.reversed_along(WHOLE, SHAPE, [1]), LEAF[:, ::-1]),
    "reversed and sliced": (
        views.sliced(views.reversed_along(WHOLE, SHAPE, [0]), SHAPE, (1, 0), (4, 6)),
        LEAF[::-1][1:4],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_elements_stand_where_numpy_puts_them(name):
    view, expected = CASES[name]
    assert view is not None
    assert view.exact
    np.testing.assert_array_equal(elements(view, expected.shape), expected)


def test_a_slice_without_elements_of_the_parameter_has_no_view():
    assert views.sliced(views.placed(WHOLE, 0, 2), (6, 6), (0, 0), (2, 6)) is None


def test_sizes_that_do_not_split_leave_axes_without_positions():
    view = views.reshaped(WHOLE, SHAPE, (3, 8))
    assert not view.exact
    assert {digit.axis for digit in view.axes[0]} == {0, 1}


def test_a_loop_takes_one_row_in_each_iteration():
    row = views.iterated(WHOLE, SHAPE, depth=0)
    assert [loop.digit.axis for loop in row.loops] == [0]
    assert [digit.axis for (digit,) in row.axes] == [1]
