"""What `experiments.compare` runs: every contestant at every sparsity with every seed, and the report."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.config import user_files
from experiments.config.fields import DENSE
from experiments.config.pretraining import PRETRAINING
from experiments.metrics import savings
from experiments.reports.compare import REPORT
from experiments.reports.report import write_report
from experiments.runs import files
from experiments.runs.folder import Folder, RunFolder
from experiments.runs.options import Options
from experiments.runs.progress import Progress
from experiments.studies import contestants as contestants_lib
from experiments.studies import dry_run
from experiments.studies.contestant_kinds import Contestant, Control
from experiments.studies.one_training import Info, train_once
from experiments.studies.pretraining import Pretraining
from experiments.studies.trials import Trial, trials_of, tried
from experiments.training.divergence import DivergedError
from experiments.training.failures import failure, record_failure
from experiments.training.setup import Setup
from experiments.training.setup import setup as setup_of
from experiments.training.task import tasks
from experiments.training.trainer import Trainer
from experiments.ways import checks, dense
from experiments.ways.recipe import Recipe

__all__ = ["run"]


class _Point(NamedTuple):
    """A contestant at a sparsity or strength.

    Attributes:
      label: of the contestant.
      value: the sparsity or strength.
      setup: of its trainings.
      recipe: what trains.
      where: in the config.
      varies: "sparsity", "strength", or "" for the dense baseline.
      folder: of its trainings, within the run folder.
      file: `path/to/file.py:function` of a criterion of the user's.
      control: what it is where it trains on the masks of another contestant.
      trials: the same point by each trial, of which the best takes its place.
      trial: number of the trial that it is, from 1; 0: none.
    """

    label: str
    value: float
    setup: Setup
    recipe: Recipe
    where: str
    varies: str
    folder: str
    file: str | None = None
    control: Control | None = None
    trials: "tuple[_Point, ...]" = ()
    trial: int = 0

    def __str__(self) -> str:
        name = f"{self.label} {self.asked}" if self.varies else self.label
        return f"{name}, trial {self.trial}" if self.trial else name

    @property
    def asked(self) -> str:
        return f"{self.value:g}" if self.varies == "strength" else f"{100 * self.value:g} %"


def run(cfg: ConfigDict, contestants: Sequence[Contestant], options: Options) -> None:
    """Runs, or goes on with, all trainings of a comparison; then writes the report.

    Args:
      cfg: the config, with hashes of the user's files (`contestants.with_digests`).
      contestants: those that it names.
      options: of the command line.
    """
    setup = setup_of(cfg)
    pretraining = Pretraining(setup) if cfg.pretraining else None
    points = _points(setup, contestants)
    _check(points)
    if options.dry_run:
        updates = {
            p.label: [t.recipe.steps(t.setup.cfg.steps) for t in p.trials or (p,)]
            for p in points
            if p.label in contestants_lib.section_of(cfg)["trials"]
        }
        table_rows = [(p.label, p.asked, p.recipe) for p in points]
        print(dry_run.comparison(setup, table_rows, updates))
        return
    checks.check_data(cfg)
    if pretraining is not None:
        checks.check_data(pretraining.setup.cfg)
    with RunFolder.open(
        options.workdir, options.config_name, cfg, "compare", options.seeds_from
    ) as folder:
        if folder.done:
            print(f"Report: {write_report(folder.path, REPORT)}")
            return
        _keep_files(contestants, folder)
        results: dict[str, list[list[dict[str, Any]]]] = {}
        training_count = (len(points) + (pretraining is not None)) * len(cfg.seeds)
        trial_count = sum(len(point.trials) for point in points)
        training_count += trial_count + (pretraining is not None and trial_count > 0)
        with Progress(training_count, "starting") as progress:
            trainings = _Trainings(setup, options, folder, progress)
            if pretraining is not None and not trainings.pretrain(pretraining, trial_count > 0):
                return
            for point in points:
                of_seeds = trainings.run(point)
                if of_seeds is None:
                    return
                results.setdefault(point.label, []).append(of_seeds)
        folder.finish(
            {
                "kind": "compare",
                "config": cfg.to_dict(),
                "paper": cfg.paper.to_dict(),
                "sparsities": list(contestants_lib.section_of(cfg)["sparsities"]),
                "contestants": [c.label for c in contestants],
                "controls": [c.label for c in contestants if isinstance(c, Control)],
                "strengths": {c.label: c.points for c in contestants if c.varies == "strength"},
                "dense": trainings.dense._asdict(),
                "examples": len(tasks(cfg, cfg.seeds[0])[0].labels),
                "seeds": [_of_seed(results, i, seed) for i, seed in enumerate(cfg.seeds)],
                **({"trials": trainings.trials} if trainings.trials else {}),
                "cost": {"trainings": training_count},
            }
        )
        print(f"Report: {write_report(folder.path, REPORT)}")


def _points(setup: Setup, contestants: Sequence[Contestant]) -> list[_Point]:
    """The dense baseline and all contestants' points, each after those whose networks it needs."""
    section = contestants_lib.section_of(setup.cfg)
    points = [_tried_point(setup, None, 0.0, trials_of(section, DENSE))]
    for contestant in contestants:
        if isinstance(contestant, Control):  # as long as the other, which may be chosen only then
            trials = trials_of(section, contestant.of)[:1]
        else:
            trials = trials_of(section, contestant.label)
        for value in contestant.points:
            points.append(_tried_point(setup, contestant, value, trials))
    return sorted(points, key=lambda point: point.recipe.stage)


def _tried_point(
    setup: Setup, contestant: Contestant | None, value: float, trials: Sequence[Trial]
) -> _Point:
    """A point of a contestant, or of the dense baseline, with one of its own for each trial."""
    points = [_point(*tried(setup, contestant, trial), value) for trial in trials]
    if len(points) == 1:
        return points[0]
    numbered = tuple(
        point._replace(folder=f"{point.folder}, trial {number}", trial=number)
        for number, point in enumerate(points, 1)
    )
    return points[0]._replace(trials=numbered)


def _point(setup: Setup, contestant: Contestant | None, value: float) -> _Point:
    if contestant is None:
        where = "config.optimizer"
        return _Point(DENSE, 0.0, setup, dense.recipe(setup, None, where), where, "", DENSE)
    recipe = contestant.recipe(setup, value)
    checks.check_schedule(recipe.method, setup.cfg.steps, contestant.where)
    return _Point(
        contestant.label,
        value,
        setup,
        recipe,
        contestant.where,
        contestant.varies,
        contestant.folder(value),
        contestant.file,
        contestant if isinstance(contestant, Control) else None,
    )


def _check(points: Sequence[_Point]) -> None:
    """Refuses, before anything is trained, contestants whose updates cannot be traced."""
    highest: dict[tuple[str, int], _Point] = {}
    for point in sorted(points, key=lambda point: point.value):
        for index, trial in enumerate(point.trials or (point,)):
            highest[point.label, index] = trial
    for point in highest.values():
        recipe = point.recipe
        if recipe.start is None:
            checks.checked(recipe.optimizer, point.setup, point.where, point.file, recipe.gate)
        elif recipe.cuts is not None:
            signals = recipe.signals()
            checks.check_cut(recipe.cuts, point.setup, point.where, signals, point.file)


class _Trainings:
    """The trainings of a comparison, in the order of their points."""

    def __init__(self, setup: Setup, options: Options, folder: RunFolder, progress: Progress):
        self.setup = setup
        self.options = options
        self.folder = folder
        self.progress = progress
        self.dense = savings.dense(setup)
        self.done = 0
        self.initial: Callable[[int, Any], tuple[Any, Any]] | None = None
        # Operations of each training over those of dense training, by contestant, point and seed.
        self.training: dict[tuple[str, float, int], float] = {}
        self._trial_seed: int = contestants_lib.section_of(setup.cfg)["trial_seed"]
        self.trials: dict[str, list[dict[str, Any]]] = {}  # by contestant, of each of its points
        self.chosen: dict[tuple[str, float], _Point] = {}

    def pretrain(self, pretraining: Pretraining, with_trials: bool) -> bool:
        """Trains on other data what all begin with; returns whether it is done, or was asked to stop.

        Args:
          pretraining: the other data's.
          with_trials: whether trials, which have a seed of their own, begin with it too.
        """
        where = f"config.{PRETRAINING}"
        recipe = dense.recipe(pretraining.setup, None, where)
        point = _Point(PRETRAINING, 0.0, pretraining.setup, recipe, where, "", PRETRAINING)
        finished = self.run(point) is not None
        if finished and with_trials:
            finished = self._run_seed(_trainer(point), point, self._trial_seed) is not None
        self.initial = functools.partial(pretraining.initial, self.folder.path)
        return finished

    def run(self, point: _Point) -> list[dict[str, Any]] | None:
        """Returns the results of a point, one per seed, or `None` if it was asked to stop."""
        if point.trials:
            chosen = self._chosen(point)
            if chosen is None:
                return None
            point = chosen
        if point.control is not None and (
            other := self.chosen.get((point.control.of, point.value))
        ):
            point = _point(other.setup, point.control, point.value)
        trainer = _trainer(point)
        results = []
        for seed in self.setup.cfg.seeds:
            result = self._run_seed(trainer, point, seed)
            if result is None:
                return None
            results.append({"asked": point.value, **result})
        return results

    def _chosen(self, point: _Point) -> _Point | None:
        """Returns the point by the trial with the best validation accuracy; `None`: asked to stop."""
        accuracies: list[float | None] = []
        for trial in point.trials:
            result = self._run_seed(_trainer(trial), trial, self._trial_seed)
            if result is None:
                return None
            accuracies.append(result.get("validation_final"))  # none where it diverged
        finished = [index for index, accuracy in enumerate(accuracies) if accuracy is not None]
        best = max(finished, key=lambda index: accuracies[index] or 0.0, default=None)
        self.trials.setdefault(point.label, []).append(
            {"asked": point.value, "validation_accuracy": accuracies, "chosen": best}
        )
        # Where all diverged, the first one says so again, with the seeds that count.
        chosen = point.trials[best or 0]._replace(folder=point.folder, trial=0)
        self.chosen[point.label, point.value] = chosen
        return chosen

    def _run_seed(self, trainer: Trainer, point: _Point, seed: int) -> dict[str, Any] | None:
        """One training, or why it has no result; `None` if it was asked to stop."""
        result = self._trained(trainer, point, seed)
        if result is not None:
            self.done += 1
            self.progress.update(self.done)
        return result

    def _trained(self, trainer: Trainer, point: _Point, seed: int) -> dict[str, Any] | None:
        folder = Folder(self.folder.path / point.folder / f"seed_{seed}")
        started = time.monotonic()
        if (recorded := failure(folder.path)) is not None:
            return recorded
        resumed = any(p.name.isdigit() for p in folder.path.glob("checkpoints/*"))

        def timed() -> dict[str, Any]:
            return {"wall_seconds": time.monotonic() - started, "resumed": resumed}

        label = f"{point} · seed {seed}"
        steps = point.setup.cfg.steps
        progress = self.progress.part(self.done, point.recipe.steps(steps))
        progress.update(0, label)
        info = Info(point.setup, self.options, progress, 0, label, self.initial)
        try:
            result = train_once(info, trainer, point.recipe, folder, seed, more=timed)
        except DivergedError as e:
            return record_failure(folder.path, e, **timed())
        if result is None:
            return None
        saved = savings.summarize(self.dense, result.get("per_leaf", ()))
        if (after := point.recipe.after) is not None:
            continued = (point.recipe.continues, point.value, seed)
            before = self.training.get(continued, 1.0)  # that of dense training
            saved["training"] = before + saved["training"] * after / self.setup.cfg.steps
        elif "training" in saved:
            saved["training"] *= steps / self.setup.cfg.steps
        if "training" in saved:
            self.training[point.label, point.value, seed] = saved["training"]
        return {**result, **saved}


def _trainer(point: _Point) -> Trainer:
    recipe = point.recipe
    return Trainer(point.setup.model, recipe.optimizer, point.setup.augment, recipe.gate)


def _keep_files(contestants: Sequence[Contestant], folder: RunFolder) -> None:
    """Copies the user's files, so that the folder says what was run."""
    for contestant in contestants:
        if contestant.file:
            copy = files.real_folder(folder.path / "criteria") / f"{contestant.label}.py"
            with files.replacing(copy, "wb") as file:
                file.write(user_files.path_of(contestant.file).read_bytes())


def _of_seed(
    results: dict[str, list[list[dict[str, Any]]]], seed_index: int, seed: int
) -> dict[str, Any]:
    """The results of one seed: per contestant, a list over its points."""
    points = {
        label: [dict(of_seeds[seed_index]) for of_seeds in of_points]
        for label, of_points in results.items()
    }
    digests = {point.pop("initial", None) for each in points.values() for point in each} - {None}
    if len(digests) > 1:
        raise RuntimeError(f"seed {seed}: contestants began with different weights, {digests}")
    return {"seed": seed, "initial": next(iter(digests), None), "points": points}
