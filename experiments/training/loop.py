"""The training loop of every binary.

Around a trainer's compiled functions `fit` goes through levels: stretches of training that are evaluated,
early-stopped and tested on their own. Dense training has one level, a lottery ticket one per round, its
controls likewise. A killed `fit` resumes where it stopped, to the same bits.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.config import UserError
from experiments.runs.checkpoint import Checkpoints
from experiments.runs.folder import Folder
from experiments.runs.options import Stopper
from experiments.runs.progress import Progress
from experiments.runs.writers import open_writers
from experiments.training.divergence import REMEDY, DivergedError, has_nan, is_finite
from experiments.training.task import Task
from experiments.training.trainer import Trainer, TrainState
from jaxprune import masks as masks_lib

__all__ = ["Level", "Run", "digest", "fit", "last_state"]


class Level(NamedTuple):
    """A stretch of training that is evaluated on its own.

    Attributes:
      name: the number it is reported under.
      start: updates done when it begins. Updates between two levels belong to neither.
      stop: updates done when it ends.
      first: its first step, other than 0 where it begins at a rewinding point.
      settled: the step from which on the masks do not change; what is evaluated before is no candidate
        for the early stop, since it belongs to a denser network.
      mark: the step at which the model's other variables (statistics of BatchNorm) are remembered; 0: as
        the first level starts.
      rewinds: whether it starts from those; parameters and optimizer state rewind in the optimizer.
    """

    name: int
    start: int
    stop: int
    first: int = 0
    settled: int = 0
    mark: int = 0
    rewinds: bool = False


class Run(NamedTuple):
    """Where a `fit` writes, whom it tells, and who may stop it.

    Attributes:
      cfg: the config.
      task: data.
      key: PRNG key of the model's noise (dropout).
      folder: receives metrics, checkpoints and results.
      progress: shared by all the fits of a process; `offset` is where this one begins on it.
      stopper: polled between chunks.
      label: what this fit is, for the progress bar.
      order: seeds the order of the examples, together with the level's name.
      workdir: what the run folders are in.
    """

    cfg: ConfigDict
    task: Task
    key: jax.Array
    folder: Folder
    progress: Progress
    offset: int
    stopper: Stopper
    label: str
    order: tuple[int, ...]
    workdir: Path | None = None


class _Tracker(NamedTuple):
    """The best evaluation of a level so far, and the variables that gave it."""

    loss: float
    step: int
    since: int  # evaluations
    network: Any
    rest: Any


def fit(
    trainer: Trainer,
    levels: Sequence[Level],
    begin: Callable[[Level], TrainState | None],
    run: Run,
    on_end: Callable[[Level, TrainState], dict[str, Any]] = lambda level, state: {},
) -> list[dict[str, Any]] | None:
    """Trains through the levels; each is evaluated as it goes, and tested once it is over.

    Args:
      trainer: the compiled functions.
      levels: in order, without overlap.
      begin: the state in which a level starts, or `None` to go on with the one before.
      run: data, where to write, whom to tell; see `Run`.
      on_end: called at the end of each level; what it returns joins the level's results. Called again
        if the process is killed before the next checkpoint.

    Returns:
      Per level: `test_final`, `test_loss`, `sparsity` and, where a validation counted, its least
      `validation_loss`, `early_step` (where that was) and `test_early` (accuracy there). `None` if it was
      asked to stop.

    Raises:
      DivergedError: a loss, in training, validation or test, or a weight to be saved, is not finite.
    """
    if run.folder.done:
        run.progress.update(run.offset + levels[-1].stop, run.label)
        return run.folder.results
    with Checkpoints(run.folder.path / "checkpoints") as checkpoints:
        results = _Loop(trainer, levels, begin, run, on_end, checkpoints).run()
    if results is not None:
        run.folder.finish(results)
    return results


def last_state(folder: Path, like: TrainState) -> TrainState:
    """Returns the state in which a finished `fit` without gates left its last level.

    Args:
      folder: of that training.
      like: a state of the same shapes.
    """
    with Checkpoints(folder / "checkpoints") as checkpoints:
        found = checkpoints.restore((like, like.params, like.rest, like.rest))
    if found is None:
        raise UserError(f"{folder}: its checkpoints are gone; move it away to train again.")
    return found[1][0]


class _Loop:
    """One `fit` in progress."""

    def __init__(self, trainer, levels, begin, run: Run, on_end, checkpoints: Checkpoints):
        self.trainer, self.levels, self.begin, self.on_end = trainer, levels, begin, on_end
        self.info, self.cfg, self.checkpoints = run, run.cfg, checkpoints
        longest = max(level.stop - level.start for level in levels)
        chunk = min(self.cfg.log_every, self.cfg.eval_every, longest)
        self.rows = max(chunk, 2)  # of examples in one call; two updates prune and rewind
        self.state = begin(levels[0])
        self.best, self.point = self._fresh(), _copy(self.state.rest)
        self.done, self.index, self.entered, self.results, written = 0, 0, False, [], None
        found = checkpoints.restore((self.state, self.best.network, self.best.rest, self.point))
        if found is not None:
            self.done, (self.state, *variables, self.point), meta = found
            self.index, self.entered = meta["level"], meta["entered"]
            loss, *counts = meta["best"]
            self.best = _Tracker(math.inf if loss is None else loss, *counts, *variables)
            self.results, written = meta["results"], meta.get("rows")
        self.saved, self.written = self.done, written

    def run(self) -> list[dict[str, Any]] | None:
        """Trains until the last level is over or somebody asks to stop."""
        with open_writers(
            self.info.folder.path,
            self.cfg.writers,
            after=self.done or -1,
            rows=self.written,
            settings=self.cfg.to_dict(),
            workdir=self.info.workdir,
        ) as self.writers:
            while self.index < len(self.levels):
                level = self.levels[self.index]
                if not self.entered:
                    self._enter(level)
                while self.done < level.stop and not self._out_of_patience():
                    if self.info.stopper.requested:
                        self._save()
                        return None
                    if self.done - self.saved >= self.cfg.save_every:
                        self._save()
                    self._advance(level)
                self._leave(level)
        return self.results

    def _enter(self, level: Level) -> None:
        """Brings the state to the start of a level."""
        state = self.begin(level)
        if state is None:  # the optimizer prunes and rewinds; its criterion alone looks at the data
            rest = _copy(self.point if level.rewinds else self.state.rest)
            self._updates(self._batches(level, 0, level.start - self.done))
            self.state = self.state._replace(rest=rest)
        else:  # a copy: what belongs to the caller must not be donated
            self.state = _copy(state)
        self.done, self.entered, self.best = level.start, True, self._fresh()

    def _advance(self, level: Level) -> None:
        """Trains up to the next row of metrics, and evaluates where that is due."""
        step = level.first + self.done - level.start
        last = level.first + level.stop - level.start
        if step < level.mark:
            last = min(last, level.mark)
        upto = min(_next(step, self.cfg.log_every), _next(step, self.cfg.eval_every), last)
        loss = self._updates(self._batches(level, step, upto))
        self.done += upto - step
        if upto == level.mark:
            self.point = _copy(self.state.rest)
        row = {"train_loss": loss}
        if upto % self.cfg.eval_every == 0 or self.done == level.stop:
            row |= self._validate(upto, upto >= level.settled)
        label = f"{self.info.label} · level {level.name}"
        self.info.progress.update(self.info.offset + self.done, label, **row)
        self.writers.write(self.done, {"level": level.name, "level_step": upto, **row})

    def _updates(self, rows: np.ndarray) -> float:
        """Makes one update per row of examples; returns their mean loss."""
        task, count = self.info.task, len(rows)
        padded = np.zeros((self.rows, rows.shape[1]), np.int32)
        padded[:count] = rows
        self.state, loss = self.trainer.run(
            self.state, task.inputs, task.labels, self.info.key, padded, self.done, count
        )
        total = float(loss)
        if not math.isfinite(total):
            updates = f"the updates {self.done} and {self.done + count}"
            raise self._diverged(f"the loss is no longer finite between {updates}")
        return total / max(count, 1)

    def _diverged(self, what: str) -> DivergedError:
        saved = f"the last checkpoint, of update {self.saved}, is from before"
        kept = saved if self.saved else "no checkpoint was written before"
        return DivergedError(f"{self.info.label}: {what}; {kept}. {REMEDY}")

    def _check_state(self) -> None:
        """Raises `DivergedError` unless the state is finite, and so is a loss of it, on the first examples.

        The last update may have made it worthless, which no loss so far has shown.
        """
        if not is_finite(self.state.params) or has_nan(self.state.rest):
            raise self._diverged(f"the weights are no longer finite after update {self.done}")
        task = self.info.task
        rows = np.tile(np.arange(task.batch_size, dtype=np.int32), (self.rows, 1))
        state, given = _copy(self.state), (task.inputs, task.labels, self.info.key)
        _, loss = self.trainer.run(state, *given, rows, self.done, 1)
        if not math.isfinite(float(loss)):
            raise self._diverged(f"the loss is no longer finite after update {self.done}")

    def _batches(self, level: Level, start: int, stop: int) -> np.ndarray:
        task, order = self.info.task, (*self.info.order, level.name)
        return batches(order, len(task.labels), task.batch_size, start, stop)

    def _validate(self, step: int, settled: bool) -> dict[str, float]:
        task = self.info.task
        if task.validation is None:
            return {}
        network = self.trainer.network(self.state, self.done)
        what = self._named("validation loss")
        loss, accuracy = self.trainer.evaluate(network, self.state.rest, task.validation, what)
        if not settled:
            pass
        elif loss < self.best.loss:
            self.best = _Tracker(loss, step, 0, *_copy((network, self.state.rest)))
        else:
            self.best = self.best._replace(since=self.best.since + 1)
        return {"validation_loss": loss, "validation_accuracy": accuracy}

    def _out_of_patience(self) -> bool:
        return 0 < self.cfg.early_stop <= self.best.since

    def _leave(self, level: Level) -> None:
        """Tests what a level has trained, stores the results, and saves."""
        task, state = self.info.task, self.state
        network = self.trainer.network(state, self.done)
        what = self._named("test loss")
        loss, accuracy = self.trainer.evaluate(network, state.rest, task.test, what)
        result = {"level": level.name, "test_final": accuracy, "test_loss": loss}
        result["steps"] = level.first + self.done - level.start
        if math.isfinite(self.best.loss):
            best = self.best.network, self.best.rest
            early = self.trainer.evaluate(*best, task.test, self._named("test loss at early stop"))
            result["test_early"] = early[1]
            result |= {"early_step": self.best.step, "validation_loss": self.best.loss}
        result |= self.on_end(level, state)
        self.results.append(result)
        self.index, self.entered = self.index + 1, False
        self.best = self._fresh()
        self._save()

    def _named(self, loss: str) -> str:
        return f"{self.info.label}: the {loss} after update {self.done}"

    def _fresh(self) -> _Tracker:
        """Nothing evaluated so far; the variables are there for their shapes."""
        network = self.trainer.network(self.state, 0)
        return _Tracker(math.inf, 0, 0, *_copy((network, self.state.rest)))

    def _save(self) -> None:
        """Writes a checkpoint, unless nothing has changed since the last one."""
        if self.saved == self.done:
            return
        self._check_state()
        self.writers.flush()
        best = self.best
        meta = {
            "level": self.index,
            "entered": self.entered,
            "results": self.results,
            "best": [best.loss if math.isfinite(best.loss) else None, best.step, best.since],
            "rows": self.writers.rows,
        }
        self.checkpoints.save(self.done, (self.state, best.network, best.rest, self.point), meta)
        self.saved = self.done


def _copy(tree: Any) -> Any:
    """Arrays that outlive the donation of the originals."""
    return jax.tree.map(jnp.copy, tree)


def _next(step: int, every: int) -> int:
    return (step // every + 1) * every


def batches(seed: tuple[int, ...], examples: int, size: int, start: int, stop: int) -> np.ndarray:
    """Returns the examples of the batches `start` to `stop`: rows of indices, int64.

    Each epoch is a permutation of its own, drawn from (seed, epoch) alone; what does not fill a batch at
    its end is left out.

    >>> batches((0,), examples=4, size=2, start=1, stop=3).shape
    (2, 2)
    """
    per_epoch = examples // size
    rows = []
    for step in range(start, stop):
        epoch, at = divmod(step, per_epoch)
        rows.append(_permutation(seed, epoch, examples)[at * size : (at + 1) * size])
    return np.stack(rows)


@functools.lru_cache(maxsize=4)
def _permutation(seed: tuple[int, ...], epoch: int, examples: int) -> np.ndarray:
    return np.random.default_rng([*seed, epoch]).permutation(examples)


def digest(tree: Any) -> str:
    """Returns a hash of all bits of a tree: equal runs have equal digests.

    >>> digest({"a": jnp.zeros(2)}) == digest({"a": jnp.zeros(2)}) != digest({"a": jnp.ones(2)})
    True
    """
    found = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        found.update(f"{masks_lib.keys_of(path)}{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
