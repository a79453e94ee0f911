"""Strict promotion of ranks for all tests, and programs that compile fast.

A shape that fits by accident is a mistake. What is compiled here runs for milliseconds: without LLVM's
optimisations the suite takes two thirds of the time. XLA_FLAGS that name a level of their own are kept.
"""

import os

import jax
import pytest

LEVEL = "--xla_backend_optimization_level"
if LEVEL not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {LEVEL}=0".strip()

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
