"""TERM and INT, once and twice: saved and stopped with 143 or 130, at once the second time, and resumed."""

import signal
import subprocess
import time

import pytest

from . import small_runs
from .test_kills import saved, wait_for

STEPS, EVERY = 1_000, 100_000  # so many updates between saves that the signal alone saves
CASES = {
    "TERM": (signal.SIGTERM, 1, 143),
    "INT": (signal.SIGINT, 1, 130),
    "TERM twice": (signal.SIGTERM, 2, -15),
    "INT twice": (signal.SIGINT, 2, -2),
    "HUP": (signal.SIGHUP, 1, -1),
}


@pytest.mark.parametrize("case", CASES)
def test_a_signal_saves_and_stops(case, tmp_path, attack, amount):
    if amount(True, False):
        pytest.skip("make faults; tests/experiments/test_cli.py sends them to a smaller program")
    number, times, status = CASES[case]
    tally = attack("R2", case, least=1)
    file, environment = tmp_path / "small.py", small_runs.environment(tmp_path / "xla")
    text = small_runs.source("train", STEPS, 50).replace("save_every=50", f"save_every={EVERY}")
    assert f"save_every={EVERY}" in text
    file.write_text(text, encoding="utf-8")
    arguments = small_runs.command("train", file, tmp_path / "runs")
    # Under nohup it is ignored, and children inherit that; a preexec_fn= would fork beside JAX's threads.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen(
        arguments,
        cwd=small_runs.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    signal.signal(signal.SIGHUP, before)
    rows = lambda: any(p.stat().st_size for p in tmp_path.rglob("metrics.jsonl"))
    wait_for(rows, process)
    started = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.02)
    _, err = process.communicate(timeout=120)
    took = time.monotonic() - started
    tally.happened(rows() and not list(tmp_path.rglob("done")), case)
    stored = saved(tmp_path)
    if process.returncode == status and took < 60 and (bool(stored) or status < 0):
        tally.survive()
    else:
        tally.foreign.append(f"{case}: {process.returncode} {took:.1f} s {err[-500:]}")
    if status < 0:
        return
    code, _, err = small_runs.outcome(arguments, env=environment)
    assert code == 0, err[-1000:]
    (folder,) = (tmp_path / "runs").iterdir()
    whole = small_runs.command("train", file, tmp_path / "whole")
    if amount(False, True):
        assert small_runs.outcome(whole, env=environment)[0] == 0
        (other,) = (tmp_path / "whole").iterdir()
        assert small_runs.fingerprint(other) == small_runs.fingerprint(folder)
