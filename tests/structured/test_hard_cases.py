"""What Torch-Pruning gets wrong is right here: the cases of `benchmarks.torch_pruning`."""

import pytest

from benchmarks._hard_cases import CASES


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_hard_case(name):
    outcome = CASES[name]()
    assert not outcome["failed"], outcome["text"]
