"""The resident set of a process grows by no more than the plan says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux, which tells the peak"
)
@pytest.mark.parametrize(
    "case",
    [
        "grams",
        pytest.param("streams", marks=pytest.mark.slow),
        pytest.param("lazy", marks=pytest.mark.slow),
        pytest.param("file", marks=pytest.mark.slow),
        pytest.param("recovery", marks=pytest.mark.slow),
    ],
)
def test_a_process_grows_by_no_more_than_the_plan_says(case):
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parents[1]),
        "JAX_PLATFORMS": "cpu",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "peak_memory.py"), case],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    if case in ("grams", "streams", "recovery"):
        assert measured["bound"] > 150e6  # what Python itself takes is small beside it
    if case == "lazy":
        assert measured["growth"] < 0.5 * measured["model"], measured
    assert measured["growth"] <= 1.1 * measured["bound"], measured
    least_share = 0.2 if case == "recovery" else 0.3  # 0.29 was measured there
    assert measured["growth"] > least_share * measured["bound"], "a bound so far off holds anything"
