"""What `experiments.compare` runs: every contestant at every sparsity with every seed, and the report."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.config import user_files
from experiments.config.fields import DENSE
from experiments.metrics import savings
from experiments.reports.report import write_report
from experiments.runs import files
from experiments.runs.files import read_sealed, write_sealed
from experiments.runs.folder import Folder, RunFolder
from experiments.runs.options import Options
from experiments.runs.progress import Progress
from experiments.studies import contestants as contestants_lib
from experiments.studies import dry_run
from experiments.studies.contestants import Contestant
from experiments.studies.train_runs import Info, train_once
from experiments.training.augment import augment_of
from experiments.training.divergence import DivergedError
from experiments.training.task import model_of, tasks
from experiments.training.trainer import Trainer
from experiments.ways import checks
from experiments.ways.recipe import Recipe, recipe

__all__ = ["run"]

_LATER = {"pruned": 1, "control": 2}  # they begin with what others have left


class _Point(NamedTuple):
    """A contestant at a sparsity or strength."""

    label: str
    value: float
    recipe: Recipe
    where: str  # of the config
    varies: str = ""
    file: str | None = None  # of the user's, with its criterion

    def __str__(self) -> str:
        return f"{self.label} {self.asked}" if self.varies else self.label

    @property
    def asked(self) -> str:
        return f"{self.value:g}" if self.varies == "strength" else f"{100 * self.value:g} %"

    @property
    def folder(self) -> str:
        return f"{self.label}/{self.varies}_{self.value:g}" if self.varies else self.label


def run(cfg: ConfigDict, contestants: Sequence[Contestant], options: Options) -> None:
    """Runs, or goes on with, all trainings of a comparison; then writes the report.

    Args:
      cfg: the config, with hashes of the user's files (`contestants.with_digests`).
      contestants: those that it names.
      options: of the command line.
    """
    points = _points(cfg, contestants)
    _check(cfg, points)
    if options.dry_run:
        print(dry_run.comparison(cfg, [(p.label, p.asked, p.recipe) for p in points]))
        return
    checks.check_data(cfg)
    with RunFolder.open(options.workdir, options.config_name, cfg) as folder:
        if folder.done:
            print(f"Report: {write_report(folder.path)}")
            return
        _keep_files(contestants, folder)
        started = time.time()
        found: dict[str, list[list[dict[str, Any]]]] = {}
        updates = sum(point.recipe.steps(cfg) for point in points) * len(cfg.seeds)
        with Progress(updates, "starting") as progress:
            trainings = _Trainings(cfg, options, folder, progress)
            for point in points:
                seeds = trainings.of(point)
                if seeds is None:
                    return
                found.setdefault(point.label, []).append(seeds)
        folder.finish(
            {
                "kind": "compare",
                "config": cfg.to_dict(),
                "paper": cfg.paper.to_dict(),
                "sparsities": list(contestants_lib.fields(cfg)["sparsities"]),
                "contestants": [c.label for c in contestants],
                "controls": [c.label for c in contestants if c.kind == "control"],
                "strengths": {c.label: c.points for c in contestants if c.varies == "strength"},
                "dense": trainings.dense._asdict(),
                "examples": len(tasks(cfg, cfg.seeds[0])[0].labels),
                "seeds": [_seed(found, i, seed) for i, seed in enumerate(cfg.seeds)],
                "cost": {
                    "trainings": len(points) * len(cfg.seeds),
                    "wall_seconds": time.time() - started,
                    "cpu_seconds": time.process_time(),
                },
            }
        )
        print(f"Report: {write_report(folder.path)}")


def _check(cfg: ConfigDict, points: Sequence[_Point]) -> None:
    """Refuses, before anything is trained, contestants whose updates cannot be traced."""
    of_label = {p.label: p for p in sorted(points, key=lambda p: p.value)}  # each at its highest
    for point in of_label.values():
        if point.recipe.start is None:
            tx, gate = point.recipe.optimizer, point.recipe.gate
            checks.checked(tx, cfg, point.where, point.file, gate)
        elif point.recipe.cuts is not None:
            checks.check_cut(point.recipe.cuts, cfg, point.where)


class _Trainings:
    """The trainings of a comparison, in the order of their points."""

    def __init__(self, cfg: ConfigDict, options: Options, folder: RunFolder, progress: Progress):
        self.cfg, self.options, self.folder, self.progress = cfg, options, folder, progress
        self.model, self.dense, self.offset = model_of(cfg), savings.dense(cfg), 0

    def of(self, point: _Point) -> list[dict[str, Any]] | None:
        """The results of a point, one per seed, or `None` if it was asked to stop."""
        tx, gate = point.recipe.optimizer, point.recipe.gate
        trainer, seeds = Trainer(self.model, tx, augment_of(self.cfg), gate), []
        for seed in self.cfg.seeds:
            folder = Folder(self.folder.path / point.folder / f"seed_{seed}")
            found = self._one(trainer, point, folder, seed)
            if found is None:
                return None
            seeds.append({"asked": point.value, **found})
            self.offset += point.recipe.steps(self.cfg)
        return seeds

    def _one(
        self, trainer: Trainer, point: _Point, folder: Folder, seed: int
    ) -> dict[str, Any] | None:
        """One training, or why it has no result; `None` if it was asked to stop."""
        failure, started = folder.path / "failed.json", time.monotonic()
        if failure.exists():
            return read_sealed(failure)
        resumed = any(p.name.isdigit() for p in folder.path.glob("checkpoints/*"))
        timed = lambda: {"wall_seconds": time.monotonic() - started, "resumed": resumed}
        label = f"{point} · seed {seed}"
        info = Info(self.cfg, self.options, self.progress, self.offset, label)
        try:
            found = train_once(info, trainer, self.model, point.recipe, folder, seed, more=timed)
        except DivergedError as e:
            write_sealed(failure, {"failed": str(e), **timed()})
            return read_sealed(failure)
        if found is None:
            return None
        saved = savings.of(self.dense, found.get("per_leaf", ()))
        if (after := point.recipe.after) is not None:  # what was trained before was dense
            saved["training"] = 1 + saved["training"] * after / self.cfg.steps
        return {**found, **saved}


def _points(cfg: ConfigDict, contestants: Sequence[Contestant]) -> list[_Point]:
    where = "config.optimizer"
    points = [_Point(DENSE, 0.0, recipe(cfg, DENSE, None, where), where)]
    for contestant in contestants:
        file = contestant.file and str(user_files.path_of(contestant.file))
        for value in contestant.points:
            made = contestants_lib.recipe_at(cfg, contestant, value)
            checks.check_schedule(made.method, cfg.steps, contestant.where)
            named = (contestant.where, contestant.varies, file)
            points.append(_Point(contestant.label, value, made, *named))
    return sorted(points, key=lambda point: _LATER.get(point.recipe.kind, 0))


def _keep_files(contestants: Sequence[Contestant], folder: RunFolder) -> None:
    """Copies the user's files, so that the folder says what was run."""
    for contestant in contestants:
        if contestant.file:
            copy = files.real_folder(folder.path / "criteria") / f"{contestant.label}.py"
            with files.replacing(copy, "wb") as file:
                file.write(user_files.path_of(contestant.file).read_bytes())


def _seed(found: dict[str, list[list[dict[str, Any]]]], index: int, seed: int) -> dict[str, Any]:
    """The results of one seed: per contestant, a list over its sparsities."""
    points = {label: [dict(seeds[index]) for seeds in each] for label, each in found.items()}
    digests = {point.pop("initial", None) for each in points.values() for point in each} - {None}
    if len(digests) > 1:
        raise RuntimeError(f"seed {seed}: contestants began with different weights, {digests}")
    return {"seed": seed, "initial": next(iter(digests), None), "points": points}
