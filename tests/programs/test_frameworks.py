"""Kernels of linen, NNX, Haiku and Equinox layers are found: the cases of `benchmarks.kernel_axes`."""

import pytest

from benchmarks._kernels import CASES
from benchmarks.kernel_axes import language_model, row, timed


@pytest.mark.parametrize("name", CASES)
def test_all_kernels_of_a_layer_are_found_and_nothing_else(name):
    found = row(CASES[name]())
    assert found["found"] == found["kernels"], found["axes"]
    assert found["others"] == []


def test_a_language_model_under_a_scan():
    found = timed()
    assert found["kernels"] == 7
    assert found["parameters"] > 1e9
    assert language_model()
