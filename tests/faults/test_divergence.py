"""Trainings that diverge in their last update: told, never done, nothing poisoned kept; all binaries."""

import json

import pytest

from experiments.cli import UserError
from experiments.config import part
from experiments.divergence import DivergedError

from . import small_runs

STEPS = 10


def exploding(step: int):
    """The learning rate of one update, counted from 0, is 1e30 times that of the others."""
    scales = {step: 1e33, step + 1: 1e-33}
    rate = part("piecewise_constant_schedule", init_value=1e-3, boundaries_and_scales=scales)
    return part("adam", learning_rate=rate)


def losses(folder):
    """The training losses that were written down."""
    rows = [
        json.loads(line)
        for path in folder.rglob("metrics.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [row["train_loss"] for row in rows]


@pytest.mark.parametrize("binary", small_runs.BINARIES)
def test_the_last_update_ruins_everything(binary, tmp_path, attack, amount):
    if binary != "train" and amount(True, False):
        pytest.skip("make faults")
    tally = attack("R8", f"the last update diverges: {binary}", least=1)
    changes = {"method": None} if binary == "train" else {}
    cfg = small_runs.settings(
        binary, steps=STEPS, every=5, optimizer=exploding(STEPS - 1), **changes
    )
    folder = small_runs.folder_of(cfg, tmp_path)
    error = None
    try:
        small_runs.run(binary, cfg, tmp_path)
    except UserError as e:
        error = e
    assert all(loss is not None for loss in losses(folder)), "each loss in training was finite"
    tally.happened(True, binary)
    if binary in ("compare", "structured"):  # a contestant that diverges is a result
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        entries = [e for seed in found["seeds"] for each in seed["points"].values() for e in each]
        told = [e["failed"] for e in entries]
        survived = error is None and any("no longer finite" in reason for reason in told)
        survived = survived and all("no longer finite" in x or "diverged" in x for x in told)
    else:
        survived = isinstance(error, DivergedError) and not (folder / "done").exists()
    if survived:
        tally.survive()
    else:
        tally.silent.append(f"{binary}: {error!r}")
    with pytest.raises(ValueError, match="Out of range"):
        json.dumps(float("nan"), allow_nan=False)
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_a_poisoned_state_is_no_checkpoint(tmp_path, attack, amount):
    """The update before a save diverges: the save before it stays the last one."""
    if amount(True, False):
        pytest.skip("make faults")
    tally = attack("R8", "the update before a save diverges", least=1)
    cfg = small_runs.settings("train", steps=30, every=5, optimizer=exploding(14), method=None)
    with pytest.raises(DivergedError, match="after update 15") as e:
        small_runs.run("train", cfg, tmp_path)
    tally.happened("no longer finite" in str(e.value), "update 15")
    folder = small_runs.folder_of(cfg, tmp_path) / "seed_0" / "checkpoints"
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    if steps[-1] == 10:
        tally.survive()
    else:
        tally.silent.append(f"saved {steps}")
