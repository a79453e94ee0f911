"""Runs that are stopped and resumed compile the same programs again: let them find those of before."""

import os

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("xla"))
    settings = {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    before = jax.config.jax_compilation_cache_dir
    os.environ.update(settings)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    for name in settings:
        os.environ.pop(name)
    jax.config.update("jax_compilation_cache_dir", before)
