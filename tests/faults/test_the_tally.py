"""The tally itself cannot pass by accident."""

import pytest

from .conftest import Attack


def test_a_fault_that_did_not_happen_fails():
    with pytest.raises(AssertionError, match="did not happen"):
        Attack("R0", "none", 1).happened(False, "a flip that changed nothing")


@pytest.mark.parametrize("wrong", ["silent", "foreign", "lost", "few"])
def test_a_tally_that_is_not_whole_fails(wrong):
    tally = Attack("R0", "none", least=2)
    for _ in range(1 if wrong == "few" else 2):
        tally.happened(True, "a case")
        if wrong in ("silent", "foreign"):
            getattr(tally, wrong).append("a case")
        elif wrong == "few":
            tally.survive()
    with pytest.raises(AssertionError, match="R0"):
        tally.close()
