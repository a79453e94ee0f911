"""SIGKILL at random moments, over all binaries: what the last life leaves equals the unkilled run."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from . import small_runs

# Of each binary: updates of a level, or seeds; updates between saves; kills in the quick part and in all.
PLAN = {
    "train": (150, 10, 1, 9),
    "lottery": (120, 10, 0, 8),
    "compare": (120, 10, 0, 8),
    "structured": (120, 10, 0, 6),
    "sensitivity": (150, 10, 0, 6),
    "branches": (80, 10, 0, 5),
    "posttrain": (8, 1, 0, 5),
}
# Of all kills: those that landed, those in mid-save, and those after which a run resumed past step 0.
LANDED = 35
IN_SAVE = 10
PAST_ZERO = 20
counted = {"kills": 0, "in mid-save": 0, "past zero": 0}


def saved(workdir):
    """The checkpoints that are complete, the segments of a pruning, and what is done."""
    complete = {f"{folder}/{name}" for folder, name in checkpoints(workdir) if name.isdigit()}
    paths = list(files(workdir))
    segments = {str(path) for path in paths if is_segment(path) and path.name[0].isdigit()}
    return complete | segments | {str(path) for path in paths if path.match("seed_*/*/done")}


def being_saved(workdir):
    """Whether a checkpoint, or a segment, is being written right now."""
    is_begun = any(is_segment(path) and path.suffix == ".tmp" for path in files(workdir))
    return is_begun or any("tmp" in name for _, name in checkpoints(workdir))


def is_segment(path):
    return path.parent.name == "segments" and path.suffix in (".npz", ".tmp")


def files(workdir):
    """All files; they, and folders, may vanish while they are looked at, which rglob would not bear."""
    for parent, _, names in os.walk(workdir):
        yield from (Path(parent, name) for name in names)


def checkpoints(workdir):
    """Folder and name of each."""
    for parent, folders, _ in os.walk(workdir):
        if Path(parent).name == "checkpoints":
            yield from [(parent, name) for name in folders]
            folders.clear()


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
    text = small_runs.source(binary, steps, every)
    if amount(True, False):  # dense, which compiles faster
        text = text.replace("method=METHOD", "method=None")
    file.write_text(text, encoding="utf-8")
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
        try:
            wait_for(lambda before=before: saved(killed) - before, process)
            if number % 2:  # half of them in mid-save
                wait_for(lambda: being_saved(killed), process)
            else:
                time.sleep(draw.uniform(0, 0.3))
            in_save = being_saved(killed)
        finally:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        if code == 0:
            break  # it was faster; what is left is compared all the same
        tally.happened(code == -signal.SIGKILL and bool(saved(killed)), f"kill {number}")
        counted["kills"] += 1
        counted["in mid-save"] += in_save
        counted["past zero"] += bool(before)
        tally.survive()
    tally.least = max(1, kills - 2)  # some may have come too late
    code, _, err = small_runs.outcome(small_runs.command(binary, file, killed), env=environment)
    assert code == 0, err[-2000:]
    expected, found = small_runs.fingerprint(untouched), small_runs.fingerprint(killed)
    assert len(expected) >= 3
    assert not [name for name in expected | found if expected.get(name) != found.get(name)]
    assert not list(killed.rglob(".*.tmp")), "temporary files are swept"


def test_the_kills_were_worth_it(attack, amount):
    """They landed where it hurts; runs after those above."""
    if amount(True, False):
        pytest.skip("make faults")
    tally = attack("R1", "kills landed, in mid-save, resumes past step 0", least=3)
    tally.happened(counted["kills"] >= LANDED, f"kills: {counted}")
    tally.survive()
    tally.happened(counted["in mid-save"] >= IN_SAVE, f"in mid-save: {counted}")
    tally.survive()
    tally.happened(counted["past zero"] >= PAST_ZERO, f"past zero: {counted}")
    tally.survive()
