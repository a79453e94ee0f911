"""SIGKILL at random moments of a pruning after training: the last life leaves what an unkilled run does."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

import jaxprune as jp
from jaxprune.models import llama

from . import small_runs
from .test_kills import wait_for

SCRIPT = Path(__file__).with_name("posttrain_run.py")
CONFIG = llama.Config(
    vocabulary=64, width=32, hidden=48, layers=12, heads=4, kv_heads=2, head_dim=8
)


def steps(workdir):
    """The steps that are stored whole."""
    return {path.name for path in (workdir / "steps").glob("*.npz")}


def being_saved(workdir):
    """Whether a step or a file of the model is being written right now."""
    return any(workdir.glob("*/.*.tmp")) or any(workdir.glob("*/.*.partial"))


def dense_model(folder):
    leaves, tree = jax.tree.flatten(llama.shapes(CONFIG))
    draw = np.random.default_rng(0)
    params = tree.unflatten([draw.standard_normal(x.shape, np.float32) / 6 for x in leaves])
    jp.models.save(folder, params, CONFIG)
    return folder


def result_of(workdir):
    return jp.models.load(workdir / "pruned").params, jp.masks.load(workdir / "masks.safetensors")


def test_a_killed_pruning_ends_as_if_nothing_had_happened(tmp_path, attack, amount):
    kills = amount(2, 30)
    dense = dense_model(tmp_path / "dense")
    environment = small_runs.environment(tmp_path / "xla")
    untouched, killed = tmp_path / "whole", tmp_path / "killed"
    command = lambda workdir: [sys.executable, str(SCRIPT), str(dense), str(workdir)]
    begin = time.monotonic()
    code, _, err = small_runs.outcome(command(untouched), env=environment)
    assert code == 0, err[-2000:]
    life = time.monotonic() - begin
    tally = attack(
        "R1", "SIGKILL: posttrain.prune, with a sink and a file of activations", least=kills
    )
    draw = random.Random("posttrain")
    landed = in_save = past_zero = 0
    while landed < kills:
        before = steps(killed)
        process = subprocess.Popen(
            command(killed), cwd=small_runs.ROOT, env=environment, stderr=subprocess.DEVNULL
        )
        try:
            if landed % 3 == 2:  # anywhere: while it starts, reads what was stored, or goes on
                time.sleep(draw.uniform(0, life))
            else:
                wait_for(lambda before=before: steps(killed) - before, process)
                if landed % 3 == 1:
                    wait_for(lambda: being_saved(killed), process)
            in_save += being_saved(killed)
        finally:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        if code == 0:
            break  # it was faster; what is left is compared all the same
        assert code == -signal.SIGKILL
        landed += 1
        past_zero += bool(before)
        tally.happened(True, f"kill {landed}")
        tally.survive()
    tally.least = max(2, kills - 5)  # some may have come too late
    assert past_zero >= 1
    if kills > 2:
        assert in_save >= 5, in_save
    code, _, err = small_runs.outcome(command(killed), env=environment)
    assert code == 0, err[-2000:]
    (params, masks), (killed_params, killed_masks) = result_of(untouched), result_of(killed)
    jax.tree.map(np.testing.assert_array_equal, params, killed_params)
    jax.tree.map(np.testing.assert_array_equal, masks, killed_masks)
    assert not being_saved(killed), "temporary files are swept"
