"""SIGKILL at random moments, over all binaries: what the last life leaves equals the unkilled run."""

import random
import signal
import subprocess
import time

import pytest

from . import small_runs

# Of each binary: updates of a level, updates between saves, kills in the quick part and in all of it.
PLAN = {
    "train": (400, 10, 2, 9),
    "lottery": (200, 10, 0, 8),
    "compare": (200, 10, 0, 8),
    "structured": (200, 10, 0, 6),
    "sensitivity": (300, 10, 0, 6),
}
IN_SAVE, PAST_ZERO = 10, 20  # kills in mid-save, resumes past step 0, of all of them
counted = {"kills": 0, "in mid-save": 0, "past zero": 0}


def saved(workdir):
    """The checkpoints that are complete."""
    return {str(p) for p in workdir.rglob("checkpoints/*") if p.name.isdigit()}


def being_saved(workdir):
    """Whether a checkpoint is being written right now."""
    return any(workdir.rglob("checkpoints/*tmp*"))


def wait_for(condition, process, seconds=300):
    """Waits until something is so, or the process is over."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.001)


@pytest.mark.parametrize("binary", PLAN)
def test_killed_runs_end_as_if_nothing_had_happened(binary, tmp_path, attack, amount):
    steps, every, quick, whole = PLAN[binary]
    kills = amount(quick, whole)
    if not kills:
        pytest.skip("make faults")
    file, environment = tmp_path / "small.py", small_runs.environment(tmp_path / "xla")
    file.write_text(small_runs.source(binary, steps, every), encoding="utf-8")
    untouched, killed = tmp_path / "whole", tmp_path / "killed"
    code, _, err = small_runs.outcome(small_runs.command(binary, file, untouched), env=environment)
    assert code == 0, err[-2000:]
    tally = attack("R1", f"SIGKILL: {binary}", least=kills)
    draw = random.Random(binary)
    for number in range(kills):
        before = saved(killed)
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                small_runs.command(binary, file, killed),
                cwd=small_runs.ROOT,
                stdout=log,
                stderr=log,
                env=environment,
            )
        wait_for(lambda before=before: saved(killed) - before, process)
        if number % 2:  # half of them in mid-save
            wait_for(lambda: being_saved(killed), process)
        else:
            time.sleep(draw.uniform(0, 0.3))
        in_save = being_saved(killed)
        if process.poll() is not None:
            break  # it was faster; what is left is compared all the same
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        tally.happened(code == -signal.SIGKILL and bool(saved(killed)), f"kill {number}")
        counted["kills"] += 1
        counted["in mid-save"] += in_save
        counted["past zero"] += bool(before)
        tally.survive()
    tally.least = min(tally.least, 2 if kills == 2 else kills - 2)
    code, _, err = small_runs.outcome(small_runs.command(binary, file, killed), env=environment)
    assert code == 0, err[-2000:]
    (expected,), (found,) = list(untouched.iterdir()), list(killed.iterdir())
    differ = {
        name: (ours, small_runs.fingerprint(found).get(name))
        for name, ours in small_runs.fingerprint(expected).items()
        if small_runs.fingerprint(found).get(name) != ours
    }
    assert not differ, list(differ)
    assert not list(killed.rglob(".*.tmp")), "temporary files are swept"


def test_the_kills_were_worth_it(attack, amount):
    """They landed where it hurts; runs after those above."""
    if amount(True, False) or counted["kills"] < 30:
        pytest.skip("make faults")
    tally = attack("R1", "kills in mid-save, resumes past step 0", least=2)
    tally.happened(counted["in mid-save"] >= IN_SAVE, f"in mid-save: {counted}")
    tally.survive()
    tally.happened(counted["past zero"] >= PAST_ZERO, f"past zero: {counted}")
    tally.survive()
