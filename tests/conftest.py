"""Strict promotion of ranks for all tests, and programs that compile fast.

A shape that fits by accident is a mistake. What is compiled here runs for milliseconds: without LLVM's
optimisations the suite takes two thirds of the time, and without the emitters of fused loops three quarters
of that. XLA_FLAGS that name a level of their own are kept.
"""

import mmap
import os
from pathlib import Path

import jax
import jaxlib
import pytest

LEVEL = "xla_backend_optimization_level"
EMITTERS = "xla_cpu_use_fusion_emitters"


def knows(flag: str) -> bool:
    """Whether this XLA has a flag; one that it has not ends the process."""
    for library in Path(jaxlib.__file__).parent.glob("*.so"):
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            if text.find(flag.encode()) >= 0:
                return True
    return False


if LEVEL not in os.environ.get("XLA_FLAGS", ""):
    flags = [os.environ.get("XLA_FLAGS", ""), f"--{LEVEL}=0"]
    flags += [f"--{EMITTERS}=false"] * knows(EMITTERS)
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()

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
