"""The invariants of `sparsify` under other people's optimizers; `benchmarks.optimizers` has them all."""

import jax
import pytest

from benchmarks.optimizers import CASES, METHODS, try_out
from jaxprune.transforms import masked_step as state_lib

QUICK = [
    "MultiSteps",
    "adabelief",
    "adafactor (factored)",
    "decay into momentum",
    "partition",
    "schedule_free_adamw",
]


@pytest.fixture(autouse=True)
def ranks_may_differ():
    with jax.numpy_rank_promotion("allow"):  # optax relies on it
        yield


def check(name, method):
    case = CASES[name]
    why_not = case.why_not or (case.why_no_regrowth if method == "rigl" else "")
    assert try_out(case, METHODS[method]).verdict == (f"no: {why_not}" if why_not else "yes")


@pytest.mark.parametrize("name", QUICK)
def test_optimizers_keep_zeros_and_forget(name):
    check(name, "rigl")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_all_optimizers(name, method):
    check(name, method)


@pytest.mark.parametrize("broken", ["land", "refresh"])
def test_the_check_fails_when_enforcement_is_broken(broken, monkeypatch):
    keeps = {
        "land": lambda updates, params, masks: updates,
        "refresh": lambda inner, inner_state, params, masks, but=None: inner_state,
    }
    monkeypatch.setattr(state_lib, broken, keeps[broken])
    outcome = try_out(CASES["adabelief"], METHODS["gmp"])
    assert outcome.verdict == "no: an invariant is broken"
    assert (outcome.revived if broken == "land" else outcome.stale) > 0
