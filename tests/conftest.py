"""Strict promotion of ranks for all tests, and programs that compile fast.

A shape that fits by accident is a mistake. What is compiled here runs for milliseconds: without LLVM's
optimisations the suite takes two thirds of the time, and without the emitters of fused loops three quarters
of that. XLA_FLAGS that name a level of their own are kept.
"""

import fast_xla
import jax
import pytest

fast_xla.set_flags()

jax.config.update("jax_numpy_rank_promotion", "raise")

MANY = 300  # tests
run = {"since": 0}


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go():
    """JAX keeps what it has compiled, gigabytes in the end, and then forgets some that is in use."""
    yield
    if run["since"] > MANY:
        jax.clear_caches()
        run["since"] = 0


@pytest.fixture(autouse=True)
def counted():
    run["since"] += 1
