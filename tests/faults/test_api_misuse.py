"""Every misuse of the API is answered by the package, in one sentence with a remedy, or means something."""

import re
import traceback
from pathlib import Path

import jax
import pytest
from faults.misuses import MISUSES

import jaxprune as jp

ROOT = str(Path(jp.__file__).parent)
STRIDE = 4  # of the cases that `make test` tries


@pytest.fixture(autouse=True)
def ranks_may_differ():
    with jax.numpy_rank_promotion("allow"):  # as users have it, so that what is broadcast shows
        yield


def test_the_list_is_long_enough():
    assert sum(map(len, MISUSES.values())) >= 132


def anchor(section, name):
    """The fault that a case belongs to, R10 to R13 where it is one of these."""
    if "expression" in name:
        return "R13"
    if any(word in name for word in ("groups", "2:4", "block", "neighbours", "units")):
        return "R11"
    return {"numbers": "R10", "masks": "R12"}.get(section, "API")


@pytest.mark.parametrize("section", MISUSES)
def test_misuses_are_answered_in_a_sentence(section, attack, amount):
    cases = list(MISUSES[section].items())[:: amount(STRIDE, 1)]
    anchors = [anchor(section, name) for name, _ in cases]
    tallies = {
        fault: attack(fault, f"misuses of {section}", least=anchors.count(fault))
        for fault in dict.fromkeys(anchors)
    }
    for fault, (name, misuse) in zip(anchors, cases, strict=True):
        tally = tallies[fault]
        try:
            found = misuse.call()
        except Exception as error:
            tally.happened(True, name)
            answer = fault_of(error, misuse.words)
            tally.foreign.extend([f"{name}: {answer}"] if answer else [])
        else:
            tally.happened(True, name)
            answer = misuse.words is not None or not misuse.right(found)
            tally.silent.extend([f"{name}: accepted"] if answer else [])
        if not answer:
            tally.survive()


def fault_of(error, words):
    """What is wrong with a refusal, if anything is."""
    told = f"{type(error).__name__}: {error}"
    if words is None:
        return f"refused: {told}"
    if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(ROOT):
        return f"told by another library: {told}"
    first_line, *table = str(error).split("\n")
    if not re.search(words, first_line):
        return f"without the words {words!r}: {told}"
    if table and not any("units" in line for line in table):  # groups may be listed below it
        return f"several lines: {told}"
    return None


def test_a_refusal_in_foreign_words_would_be_seen():
    with pytest.raises(TypeError) as foreign:
        jax.numpy.ones((2, 3)) + jax.numpy.ones((4, 5))
    assert fault_of(foreign.value, "shapes").startswith("told by another library")
    with pytest.raises(ValueError, match="sparsity") as own:
        jp.methods.magnitude(sparsity=2)
    assert fault_of(own.value, "sparsity=2") is None
    assert fault_of(own.value, "conv9").startswith("without the words")
