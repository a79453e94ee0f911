"""Totals and cuts of large arrays, block by block, are those of NumPy at once."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from jaxprune.arrays.host_arrays import Blockwise, take_indices, totals_by_axis

# Rows shorter and longer than a block, several blocks, none, and one number.
SHAPES = ((7,), (3, 5), (300, 70, 5), (2, 90_000), (3, 400, 600), (200_000,), (0, 4), (1, 1))
PLAIN = {
    "sum": lambda x, axes: x.sum(axes),
    "squares": lambda x, axes: (x * x).sum(axes),
    "max": lambda x, axes: x.max(axes, initial=-np.inf),
}


def drawn(shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("total", PLAIN)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_totals_are_those_of_numpy(shape, total):
    array, axes = drawn(shape), range(len(shape))
    found = totals_by_axis(Blockwise(array, (np.abs,)), axes, total)
    for axis in axes:
        others = tuple(i for i in axes if i != axis)
        whole = PLAIN[total](np.abs(array).astype(np.float64), others)
        np.testing.assert_allclose(found[axis], whole, rtol=1e-13)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_equal_slices_have_equal_totals(axis):
    array = np.repeat(np.take(drawn((40, 60, 50)), [3], axis), 70, axis)
    assert len(set(totals_by_axis(array, [axis], "sum")[axis])) == 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=str)
def test_other_types_are_added_up_in_float64(dtype):
    array = drawn((300, 400), dtype)
    whole = array.astype(np.float64).sum(0)
    np.testing.assert_allclose(totals_by_axis(array, [1], "sum")[1], whole, rtol=1e-12)


def test_nan_and_infinity_are_seen():
    array = np.array([[1.0, np.nan], [np.inf, 2.0]])
    for total in PLAIN:
        found = totals_by_axis(array, [0, 1], total)
        assert np.isnan(found[0][0]), total
        assert np.isnan(found[1][1]), total
        assert found[0][1] == found[1][0] == np.inf, total


@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 not in s], ids=str)
def test_what_is_taken_is_what_numpy_takes(shape):
    array = np.asfortranarray(drawn(shape))
    some = {axis: list(range(0, size, 2)) for axis, size in enumerate(shape)}
    last = len(shape) - 1
    for kept in (some, {0: some[0]}, {last: some[last]}, {}):
        every = [kept.get(axis, range(size)) for axis, size in enumerate(shape)]
        found = take_indices(array, kept)
        np.testing.assert_array_equal(found, array[np.ix_(*every)])
        assert found.ctypes.data % 64 == 0
        assert not np.shares_memory(found, array)


def test_nothing_as_large_is_made_in_between():
    array = drawn((64, 256, 256))
    tracemalloc.start()
    totals_by_axis(Blockwise(array, (np.abs,)), [0, 1, 2], "squares")
    small = take_indices(array, {1: range(128), 2: range(64)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.nbytes > 16e6
    assert peak < small.nbytes + 3e6, peak
