"""The training loop of every binary.

Around a trainer's compiled functions `fit` goes through levels: stretches of training that are evaluated,
early-stopped and tested on their own. Dense training has one level, a lottery ticket one per round, its
controls likewise. A killed `fit` resumes where it stopped, to the same bits.
"""

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
from experiments.runs.progress import Part, Progress
from experiments.runs.writers import open_writers
from experiments.training.divergence import REMEDY, DivergedError, has_nan, is_finite
from experiments.training.example_order import batches
from experiments.training.task import Task
from experiments.training.trainer import Trainer, TrainState

__all__ = ["Level", "Run", "fit", "last_state"]


class Level(NamedTuple):
    """A stretch of training that is evaluated on its own.

    Attributes:
      name: the number it is reported under.
      start: updates done when it begins. Updates between two levels belong to neither.
      stop: updates done when it ends.
      first: its first step, other than 0 where it begins at a rewinding point.
      settled: the step from which on the masks do not change; an earlier evaluation is no candidate for
        the early stop, since it belongs to a denser network.
      mark: the step at which the model's other variables (statistics of BatchNorm) are stored; 0: as the
        first level starts.
      rewinds: whether it starts from those variables; parameters and optimizer state rewind in the
        optimizer.
    """

    name: int
    start: int
    stop: int
    first: int = 0
    settled: int = 0
    mark: int = 0
    rewinds: bool = False


class Run(NamedTuple):
    """Data of a `fit`, where it writes, and what may stop it.

    Attributes:
      cfg: the config.
      task: the data.
      key: PRNG key of the model's noise (dropout).
      folder: receives metrics, checkpoints and results.
      progress: shared by all the fits of a process.
      offset: updates of the progress bar that belong to earlier fits.
      stopper: polled between chunks.
      label: name of this fit, for the progress bar.
      order: seeds the order of the examples, together with the level's name.
      workdir: parent of the run folders.
    """

    cfg: ConfigDict
    task: Task
    key: jax.Array
    folder: Folder
    progress: Progress | Part
    offset: int
    stopper: Stopper
    label: str
    order: tuple[int, ...]
    workdir: Path | None = None


class _BestEvaluation(NamedTuple):
    """The best evaluation of a level so far.

    Attributes:
      loss: the least validation loss; infinite before the first evaluation.
      step: at which step of the level it was.
      evaluations_since: number of evaluations since then.
      network: parameters that were evaluated.
      rest: the model's other variables.
    """

    loss: float
    step: int
    evaluations_since: int
    network: Any
    rest: Any


def fit(
    trainer: Trainer,
    levels: Sequence[Level],
    begin: Callable[[Level], TrainState | None],
    run: Run,
    on_end: Callable[[Level, TrainState], dict[str, Any]] = lambda level, state: {},
    on_mark: Callable[[TrainState], None] = lambda state: None,
) -> list[dict[str, Any]] | None:
    """Trains through the levels; each is evaluated as it goes, and tested once it is over.

    Args:
      trainer: the compiled functions.
      levels: in order, without overlap.
      begin: the state in which a level starts, or `None` to go on with the one before.
      run: data, folder and progress; see `Run`.
      on_end: called at the end of each level; what it returns joins the level's results. Called again
        if the process is killed before the next checkpoint.
      on_mark: called with the state at each level's mark, where that is not its start; again likewise.

    Returns:
      Per level: `test_final`, `test_loss`, `sparsity`, `validation_final` (accuracy of the last network)
      where examples are held out, and, where a validation counted, its least `validation_loss`, `early_step`
      (where that was) and `test_early` (accuracy there). `None` if it was asked to stop.

    Raises:
      DivergedError: a loss, in training, validation or test, or a weight to be saved, is not finite.
    """
    if run.folder.done:
        run.progress.update(run.offset + levels[-1].stop, run.label)
        return run.folder.results
    with Checkpoints(run.folder.path / "checkpoints") as checkpoints:
        results = _Loop(trainer, levels, begin, run, on_end, on_mark, checkpoints).run()
    if results is not None:
        run.folder.finish(results)
    return results


def last_state(folder: Path, like: TrainState) -> TrainState:
    """Returns the state in which a finished `fit` without gates left its last level.

    Args:
      folder: the folder of that training.
      like: a state of the same shapes.

    Raises:
      UserError: its checkpoints are gone.
    """
    with Checkpoints(folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore((like, like.params, like.rest, like.rest))
    if restored is None:
        raise UserError(f"{folder}: its checkpoints are gone; move it away to train again.")
    _, (state, *_), _ = restored
    return state


class _Loop:
    """One `fit` in progress.

    Attributes:
      state: the state of the training.
      best: the best evaluation of the level so far.
      marked_rest: the model's other variables as they were at the level's mark.
      updates_done: number of updates, those between levels included.
      level_index: index of the level that is trained, or comes next.
      has_entered_level: whether the state has been brought to the start of that level.
      results: the results of the levels that are over.
      saved_update: number of updates at the last checkpoint.
      restored_row_count: number of rows of metrics at the checkpoint restored; `None` if unknown.
      rows_per_call: number of updates that one call of the trainer has room for.
    """

    def __init__(self, trainer, levels, begin, run: Run, on_end, on_mark, checkpoints: Checkpoints):
        self.trainer = trainer
        self.levels = levels
        self.begin = begin
        self.on_end = on_end
        self.on_mark = on_mark
        self.info = run
        self.cfg = run.cfg
        self.checkpoints = checkpoints
        longest_level = max(level.stop - level.start for level in levels)
        chunk_size = min(self.cfg.log_every, self.cfg.eval_every, longest_level)
        self.rows_per_call = max(chunk_size, 2)  # two updates prune and rewind
        self.state = begin(levels[0])
        self.best = self._nothing_evaluated()
        self.marked_rest = _copy_arrays(self.state.rest)
        self.updates_done = 0
        self.level_index = 0
        self.has_entered_level = False
        self.results = []
        self.restored_row_count = None
        restored = checkpoints.restore(
            (self.state, self.best.network, self.best.rest, self.marked_rest)
        )
        if restored is not None:
            self.updates_done, (self.state, *variables, self.marked_rest), meta = restored
            self.level_index = meta["level"]
            self.has_entered_level = meta["entered"]
            loss, *step_and_count = meta["best"]
            self.best = _BestEvaluation(
                math.inf if loss is None else loss, *step_and_count, *variables
            )
            self.results = meta["results"]
            self.restored_row_count = meta.get("rows")
        self.saved_update = self.updates_done

    def run(self) -> list[dict[str, Any]] | None:
        """Trains until the last level is over, or a stop is requested: then it returns `None`."""
        with open_writers(
            self.info.folder.path,
            self.cfg.writers,
            after=self.updates_done or -1,
            rows=self.restored_row_count,
            settings=self.cfg.to_dict(),
            workdir=self.info.workdir,
        ) as self.writers:
            while self.level_index < len(self.levels):
                level = self.levels[self.level_index]
                if not self.has_entered_level:
                    self._enter(level)
                while self.updates_done < level.stop and not self._is_out_of_patience():
                    if self.info.stopper.requested:
                        self._save()
                        return None
                    if self.updates_done - self.saved_update >= self.cfg.save_every:
                        self._save()
                    self._advance(level)
                self._leave(level)
        return self.results

    def _enter(self, level: Level) -> None:
        """Brings the state to the start of a level."""
        start_state = self.begin(level)
        if start_state is None:
            # The optimizer prunes and rewinds; its criterion alone looks at the data.
            rest = _copy_arrays(self.marked_rest if level.rewinds else self.state.rest)
            self._make_updates(self._example_rows(level, 0, level.start - self.updates_done))
            self.state = self.state._replace(rest=rest)
        else:  # a copy: the caller's arrays must not be donated
            self.state = _copy_arrays(start_state)
        self.updates_done = level.start
        self.has_entered_level = True
        self.best = self._nothing_evaluated()

    def _advance(self, level: Level) -> None:
        """Trains up to the next row of metrics, writes it, and validates where that is due."""
        step = level.first + self.updates_done - level.start
        last_step = level.first + level.stop - level.start
        if step < level.mark:
            last_step = min(last_step, level.mark)
        next_step = min(
            _next_multiple(step, self.cfg.log_every),
            _next_multiple(step, self.cfg.eval_every),
            last_step,
        )
        train_loss = self._make_updates(self._example_rows(level, step, next_step))
        self.updates_done += next_step - step
        if next_step == level.mark:
            self.marked_rest = _copy_arrays(self.state.rest)
            self.on_mark(self.state)
        metric_row = {"train_loss": train_loss}
        if next_step % self.cfg.eval_every == 0 or self.updates_done == level.stop:
            metric_row |= self._validate(next_step, next_step >= level.settled)
        label = f"{self.info.label} · level {level.name}"
        self.info.progress.update(self.info.offset + self.updates_done, label, **metric_row)
        self.writers.write(
            self.updates_done, {"level": level.name, "level_step": next_step, **metric_row}
        )

    def _make_updates(self, example_rows: np.ndarray) -> float:
        """Makes one update per row of examples; returns their mean loss."""
        task = self.info.task
        update_count = len(example_rows)
        padded_rows = np.zeros((self.rows_per_call, example_rows.shape[1]), np.int32)
        padded_rows[:update_count] = example_rows
        self.state, loss = self.trainer.run(
            self.state,
            task.inputs,
            task.labels,
            task.scaling,
            self.info.key,
            padded_rows,
            self.updates_done,
            update_count,
            task.teacher,
        )
        loss_sum = float(loss)
        if not math.isfinite(loss_sum):
            updates_text = f"the updates {self.updates_done} and {self.updates_done + update_count}"
            raise self._divergence_error(f"the loss is no longer finite between {updates_text}")
        return loss_sum / max(update_count, 1)

    def _divergence_error(self, reason: str) -> DivergedError:
        """Returns an error that says which checkpoint is left."""
        saved_sentence = f"the last checkpoint, of update {self.saved_update}, is from before"
        checkpoint_sentence = (
            saved_sentence if self.saved_update else "no checkpoint was written before"
        )
        return DivergedError(f"{self.info.label}: {reason}; {checkpoint_sentence}. {REMEDY}")

    def _check_state(self) -> None:
        """Raises `DivergedError` unless the state is finite, and so is its loss on the first examples.

        The last update may have made the state useless, which no earlier loss could show.
        """
        if not is_finite(self.state.params) or has_nan(self.state.rest):
            raise self._divergence_error(
                f"the weights are no longer finite after update {self.updates_done}"
            )
        task = self.info.task
        example_rows = np.tile(np.arange(task.batch_size, dtype=np.int32), (self.rows_per_call, 1))
        state = _copy_arrays(self.state)
        training_data = (task.inputs, task.labels, task.scaling, self.info.key)
        _, loss = self.trainer.run(
            state, *training_data, example_rows, self.updates_done, 1, task.teacher
        )
        if not math.isfinite(float(loss)):
            raise self._divergence_error(
                f"the loss is no longer finite after update {self.updates_done}"
            )

    def _example_rows(self, level: Level, start: int, stop: int) -> np.ndarray:
        """Returns the examples of the updates `start` to `stop` of a level, one row per update."""
        task = self.info.task
        order = (*self.info.order, level.name)
        return batches(order, len(task.labels), task.batch_size, start, stop)

    def _validate(self, step: int, is_candidate: bool) -> dict[str, float]:
        """Returns validation loss and accuracy, and records a candidate for the early stop."""
        task = self.info.task
        if task.validation is None:
            return {}
        network = self.trainer.network(self.state, self.updates_done)
        loss_name = self._name_of_loss("validation loss")
        loss, accuracy = self.trainer.evaluate(network, self.state.rest, task.validation, loss_name)
        if not is_candidate:
            pass
        elif loss < self.best.loss:
            self.best = _BestEvaluation(loss, step, 0, *_copy_arrays((network, self.state.rest)))
        else:
            self.best = self.best._replace(evaluations_since=self.best.evaluations_since + 1)
        return {"validation_loss": loss, "validation_accuracy": accuracy}

    def _is_out_of_patience(self) -> bool:
        return 0 < self.cfg.early_stop <= self.best.evaluations_since

    def _leave(self, level: Level) -> None:
        """Tests the network at the end of a level, stores the results, and saves."""
        task = self.info.task
        state = self.state
        network = self.trainer.network(state, self.updates_done)
        loss_name = self._name_of_loss("test loss")
        loss, accuracy = self.trainer.evaluate(network, state.rest, task.test, loss_name)
        result = {"level": level.name, "test_final": accuracy, "test_loss": loss}
        result["steps"] = level.first + self.updates_done - level.start
        if task.validation is not None:
            loss_name = self._name_of_loss("validation loss")
            _, result["validation_final"] = self.trainer.evaluate(
                network, state.rest, task.validation, loss_name
            )
        if math.isfinite(self.best.loss):
            _, early_accuracy = self.trainer.evaluate(
                self.best.network,
                self.best.rest,
                task.test,
                self._name_of_loss("test loss at early stop"),
            )
            result["test_early"] = early_accuracy
            result |= {"early_step": self.best.step, "validation_loss": self.best.loss}
        result |= self.on_end(level, state)
        self.results.append(result)
        self.level_index += 1
        self.has_entered_level = False
        self.best = self._nothing_evaluated()
        self._save()

    def _name_of_loss(self, loss_kind: str) -> str:
        return f"{self.info.label}: the {loss_kind} after update {self.updates_done}"

    def _nothing_evaluated(self) -> _BestEvaluation:
        """Returns the best evaluation before there is any; its variables only give the shapes."""
        network = self.trainer.network(self.state, 0)
        return _BestEvaluation(math.inf, 0, 0, *_copy_arrays((network, self.state.rest)))

    def _save(self) -> None:
        """Writes a checkpoint, unless nothing has changed since the last one."""
        if self.saved_update == self.updates_done:
            return
        self._check_state()
        self.writers.flush()
        best = self.best
        meta = {
            "level": self.level_index,
            "entered": self.has_entered_level,
            "results": self.results,
            "best": [
                best.loss if math.isfinite(best.loss) else None,
                best.step,
                best.evaluations_since,
            ],
            "rows": self.writers.rows,
        }
        self.checkpoints.save(
            self.updates_done, (self.state, best.network, best.rest, self.marked_rest), meta
        )
        self.saved_update = self.updates_done


def _copy_arrays(tree: Any) -> Any:
    """Returns copies of the arrays, which outlive the donation of the originals."""
    return jax.tree.map(jnp.copy, tree)


def _next_multiple(step: int, every: int) -> int:
    """Returns the least multiple of `every` above `step`."""
    return (step // every + 1) * every
