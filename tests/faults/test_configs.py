"""Mistakes of configs and command lines: in one sentence, before JAX where it can be, nothing written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.runs import folder as folder_lib

from . import answering

ROOT = Path(__file__).parents[2]
MOST_AFTER_JAX = 40  # of all mistakes: those that need the model's shapes or the library's word


@pytest.fixture(scope="module")
def before_jax(tmp_path_factory):
    """Every mistake put to a process that cannot import JAX: (name, outcome, words), and where."""
    folder = tmp_path_factory.mktemp("configs")
    done = subprocess.run(
        [sys.executable, str(Path(answering.__file__)), str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder, json.loads(done.stdout.splitlines()[-1])


def judge(tally, name, outcome, words):
    """One sentence that fits on a screen."""
    tally.happened(True, name)
    if outcome == "accepted":
        tally.silent.append(f"{name}: {words}")
    elif outcome == "foreign" or "Traceback" in words or not words.strip() or len(words) > 3000:
        tally.foreign.append(f"{name}: {words}")
    else:
        tally.survive()


def test_what_can_be_known_is_known_before_jax(before_jax, attack):
    folder, answers = before_jax
    tally = attack("R9", "mistakes of configs and flags, before JAX", least=145)
    for name, outcome, words in answers:
        if outcome != "jax":
            judge(tally, name, outcome, words)
    later = [name for name, outcome, _ in answers if outcome == "jax"]
    assert len(later) <= MOST_AFTER_JAX, later
    assert not (folder / "runs").exists(), "a run folder was made"


def test_the_others_are_known_before_anything_is_written(
    before_jax, tmp_path, attack, amount, monkeypatch, capfd
):
    monkeypatch.chdir(ROOT)
    later = {name for name, outcome, _ in before_jax[1] if outcome == "jax"}
    monkeypatch.setattr(folder_lib.RunFolder, "open", folder_lib.RunFolder.open)
    cases = [case for case in answering.cases(tmp_path) if case[0] in later]
    answering.refuse_folders()
    chosen = cases[:: amount(7, 1)]
    tally = attack("R9", "mistakes of configs, with JAX", least=len(chosen))
    for name, binary, arguments in chosen:
        judge(tally, name, *answering.answer(binary, arguments, tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_what_is_right_is_accepted(tmp_path, amount, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(folder_lib.RunFolder, "open", folder_lib.RunFolder.open)
    answering.refuse_folders()
    for name, binary, arguments in list(answering.right(tmp_path))[: amount(1, 5)]:
        assert answering.answer(binary, arguments, tmp_path / "runs")[0] == "accepted", name


@pytest.mark.parametrize("binary", ["train", "lottery", "compare", "structured", "sensitivity"])
def test_data_that_are_not_fetched_leave_no_folder(binary, tmp_path, amount, monkeypatch):
    if binary != "train" and amount(True, False):
        pytest.skip("make faults")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("JAXPRUNE_DATA", str(tmp_path / "nothing"))
    arguments = [f"--config={answering.mistakes.BASE[binary]}"]
    outcome, words = answering.answer(binary, arguments, tmp_path / "runs")
    assert outcome == "refused", words
    assert "experiments.data fetch mnist" in words
    assert not (tmp_path / "runs").exists()
