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


def test_a_killed_pruning_ends_as_if_nothing_had_happened(tmp_path, attack, amount):
    kills = amount(2, 30)
    dense = dense_model(tmp_path / "dense")
    environment = small_runs.environment(tmp_path / "xla")
    command = lambda workdir: [sys.executable, str(SCRIPT), str(dense), str(workdir)]

    def finish(workdir):
        code, _, err = small_runs.outcome(command(workdir), env=environment)
        assert code == 0, err[-2000:]
        assert not being_saved(workdir), "temporary files are swept"
        params = jp.models.load(workdir / "pruned").params
        return params, jp.masks.load(workdir / "masks.safetensors")

    expected = finish(tmp_path / "whole")
    tally = attack("R1", "SIGKILL: posttrain.prune, sink and activations in files", least=kills)
    draw = random.Random("posttrain")
    landed = in_save = past_zero = rounds = 0
    until_step = 5.0  # seconds from the start of a process to a new step
    while landed < kills:
        rounds += 1
        killed = tmp_path / f"killed {rounds}"
        code = -signal.SIGKILL
        while landed < kills and code == -signal.SIGKILL:
            before = steps(killed)
            begin = time.monotonic()
            process = subprocess.Popen(
                command(killed), cwd=small_runs.ROOT, env=environment, stderr=subprocess.DEVNULL
            )
            try:
                if landed % 3 == 2:  # anywhere: while it starts, reads what was stored, or goes on
                    time.sleep(draw.uniform(0, 1.2 * until_step))
                else:
                    wait_for(lambda killed=killed, old=before: steps(killed) - old, process)
                    until_step = time.monotonic() - begin
                    if landed % 3 == 1:
                        wait_for(lambda killed=killed: being_saved(killed), process)
                saving = being_saved(killed)
            finally:
                process.send_signal(signal.SIGKILL)
                code = process.wait()
            if code == -signal.SIGKILL:
                tally.happened(True, f"kill {landed}")
                landed += 1
                in_save += saving
                past_zero += bool(before)
        assert code in (0, -signal.SIGKILL), code
        jax.tree.map(np.testing.assert_array_equal, expected, finish(killed))
        tally.survived = landed
    assert past_zero >= 1
    if kills > 2:
        assert in_save >= 5, in_save
