"""What `experiments.train` runs: each seed, or each fold of each seed, and the report."""

from typing import Any

from ml_collections import ConfigDict

from experiments.config.fields import DENSE
from experiments.metrics import savings
from experiments.reports.report import write_report
from experiments.reports.train import REPORT
from experiments.runs.folder import Folder, RunFolder
from experiments.runs.options import Options
from experiments.runs.progress import Progress
from experiments.studies import dry_run
from experiments.studies.one_training import Info, train_once
from experiments.training.setup import setup as setup_of
from experiments.training.trainer import Trainer
from experiments.ways import checks
from experiments.ways.recipe import recipe_of

__all__ = ["run"]


def run(cfg: ConfigDict, way: str | None, options: Options) -> None:
    """Runs, or goes on with, all seeds of a config; then writes the report.

    Args:
      cfg: the config.
      way: the field that says how the model becomes sparse; `None`: it stays dense.
      options: of the command line.
    """
    setup = setup_of(cfg)
    way = way or DENSE
    where = f"config.{way}"
    recipe = recipe_of(setup, way, cfg.get(way), where)
    checks.check_schedule(recipe.method, cfg.steps, where)
    optimizer = checks.checked(recipe.optimizer, setup, where, gate=recipe.gate)
    if options.dry_run:
        print(dry_run.describe(setup, recipe))
        return
    checks.check_data(cfg)
    with RunFolder.open(
        options.workdir, options.config_name, cfg, "train", options.seeds_from
    ) as folder:
        if folder.done:
            print(f"Report: {write_report(folder.path, REPORT)}")
            return
        trainer = Trainer(setup.model, optimizer, setup.augment, recipe.gate)
        runs = [(seed, fold) for seed in cfg.seeds for fold in range(cfg.k_folds or 1)]
        results: list[dict[str, Any]] = []
        dense = savings.dense(setup)
        with Progress(cfg.steps * len(runs), "starting") as progress:
            for run_index, (seed, fold) in enumerate(runs):
                name = f"seed_{seed}"
                label = f"seed {seed}"
                if cfg.k_folds:
                    name = f"{name}/fold_{fold}"
                    label = f"{label} · fold {fold}"
                info = Info(setup, options, progress, run_index * cfg.steps, label)
                result = train_once(info, trainer, recipe, Folder(folder.path / name), seed, fold)
                if result is None:
                    return
                saved = savings.summarize(dense, result["per_leaf"]) if "per_leaf" in result else {}
                identity = {"seed": seed, **({"fold": fold} if cfg.k_folds else {})}
                results.append({**identity, **result, **saved})
        folder.finish(
            {
                "kind": "train",
                "config": cfg.to_dict(),
                "paper": cfg.paper.to_dict(),
                "seeds": results,
            }
        )
        print(f"Report: {write_report(folder.path, REPORT)}")
