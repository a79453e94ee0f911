"""What the training loop decides, with losses that are written down: the early stop, a resume, the rows."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import Stopper
from experiments.config import config, part
from experiments.runs.folder import Folder
from experiments.runs.progress import Progress
from experiments.training.divergence import DivergedError, require_finite
from experiments.training.loop import Level, Run, fit
from experiments.training.task import Batches, Task
from experiments.training.trainer import TrainState

EVERY = 10


class KilledError(BaseException):
    """Ends a training as a signal would."""


class Scripted:
    """A trainer whose losses are written down: one parameter counts the updates.

    Args:
      losses: validation loss by step.
      poison: the update after which the parameter is no longer finite.
      dies: the update before which the process is killed.
      test: loss of the test set.
    """

    def __init__(self, losses, poison=None, dies=None, test=0.25):
        self.losses, self.poison, self.dies, self.test = losses, poison, dies, test

    def run(self, state, inputs, labels, scaling, key, rows, step, count, teacher):
        if self.dies is not None and step + count > self.dies:
            raise KilledError
        value = float(state.params["w"]) + count
        if self.poison is not None and step < self.poison <= step + count:
            value = np.nan
        loss = float(state.params["w"]) * 0  # of before the update: it is finite for the last time
        return state._replace(params={"w": jnp.float32(value)}), loss

    def network(self, state, step):
        return state.params

    def evaluate(self, network, rest, batches, what):
        if len(batches.labels) == 2:
            return require_finite(self.test, what), 0.5
        return require_finite(self.losses[int(network["w"])], what), 0.5


def training(tmp_path, trainer, steps=40, settled=0, **changes):
    """One level through `fit`; its results."""
    given = {"eval_every": EVERY, "save_every": EVERY, "log_every": EVERY, **changes}
    cfg = config(data=part("mnist"), steps=steps, **given)
    examples = lambda count: Batches(jnp.zeros((count, 1, 1)), jnp.zeros((count, 1), jnp.int32))
    task = Task(jnp.zeros((8, 1)), jnp.zeros(8, jnp.int32), examples(1), examples(2), 4)
    with Progress(
        steps, stream=types.SimpleNamespace(isatty=lambda: False, write=str, flush=str)
    ) as p:
        run = Run(
            *(cfg, task, jax.random.key(0), Folder(tmp_path / "run"), p, 0, Stopper(), "seed 0"),
            order=(0,),
        )
        start = TrainState({"w": jnp.float32(0)}, {}, ())
        return fit(trainer, [Level(0, 0, steps, settled=settled)], lambda level: start, run)


def rows(tmp_path):
    text = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["step"] for line in text.splitlines()]


LOSSES = {0: 2.0, 10: 0.1, 20: 0.5, 30: 0.4, 40: 0.6}


def test_the_early_stop_takes_no_denser_network(tmp_path):
    (found,) = training(tmp_path, Scripted(LOSSES), settled=15)
    assert (found["early_step"], found["validation_loss"]) == (30, 0.4)
    (found,) = training(tmp_path / "dense", Scripted(LOSSES))
    assert (found["early_step"], found["validation_loss"]) == (10, 0.1)


def test_the_best_evaluation_outlives_a_kill(tmp_path):
    with pytest.raises(KilledError):
        training(tmp_path, Scripted(LOSSES, dies=25), early_stop=3)
    (found,) = training(tmp_path, Scripted(LOSSES), early_stop=3)
    assert (found["early_step"], found["validation_loss"], found["steps"]) == (10, 0.1, 40)
    with pytest.raises(KilledError):
        training(tmp_path / "two", Scripted(LOSSES, dies=25), early_stop=2)
    (found,) = training(tmp_path / "two", Scripted(LOSSES), early_stop=2)
    assert found["steps"] == 30, "the evaluations without progress are counted across the kill"


def test_rows_after_the_restored_step_are_written_again(tmp_path):
    with pytest.raises(KilledError):
        training(tmp_path, Scripted(LOSSES, dies=35), save_every=20)
    assert rows(tmp_path) == [10, 20, 30]
    training(tmp_path, Scripted(LOSSES), save_every=20)
    assert rows(tmp_path) == [10, 20, 30, 40]


@pytest.mark.parametrize("poison", [40, 39, 31])
def test_a_state_that_the_last_update_has_ruined_is_not_saved(poison, tmp_path):
    losses = {**LOSSES, 0: 2.0}
    with pytest.raises(DivergedError, match=r"update") as e:
        training(tmp_path, Poisoned(losses, poison=poison))
    assert "\n" not in str(e.value)
    folder = tmp_path / "run"
    assert not (folder / "done").exists()
    saved = sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    assert saved[-1] == 30 if poison > 30 else saved[-1] < 30
    (found,) = training(tmp_path, Scripted(LOSSES))  # whatever it was is over
    assert found["steps"] == 40


class Poisoned(Scripted):
    """Evaluates as if nothing had happened: a network that is averaged or finalised may hide it."""

    def evaluate(self, network, rest, batches, what):
        value = float(network["w"])
        return (0.5 if np.isnan(value) else super().evaluate(network, rest, batches, what)[0]), 0.5


@pytest.mark.parametrize("where", ["validation", "test"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_read_is_looked_at(where, value, tmp_path):
    trainer = Scripted({**LOSSES, 40: value} if where == "validation" else LOSSES)
    trainer.test = value if where == "test" else 0.25
    with pytest.raises(DivergedError, match=f"seed 0: the {where} loss after update 40 is {value}"):
        training(tmp_path, trainer)
    assert not (tmp_path / "run" / "done").exists()
    assert not (tmp_path / "run" / "results.json").exists()
