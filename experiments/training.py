"""What `experiments.train` runs: each seed, or each fold of each seed, and the report."""

import time
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments import mask_files, plans
from experiments.cli import Options
from experiments.config import UserError, build
from experiments.engine import Level, Run, Trainer, TrainState, digest, fit
from experiments.progress import Progress
from experiments.report import write_report
from experiments.run_folder import Folder, RunFolder
from experiments.task import Task, fresh_variables, model_of, tasks

__all__ = ["run"]


def run(cfg: ConfigDict, options: Options) -> None:
    """Runs, or goes on with, all seeds of a config; then writes the report."""
    method = build("method", cfg.method)
    if method is not None and method.schedule.end >= cfg.steps:
        raise UserError(
            f"config.method: masks change until step {method.schedule.end}, but training ends after "
            f"config.steps={cfg.steps}; the target would not be reached."
        )
    if options.dry_run:
        print(plans.describe(cfg))
        return
    with RunFolder.open(options.workdir, options.config_name, cfg) as folder:
        if folder.done:
            print(f"This run is finished; its report: {folder.path / 'report.md'}")
            return
        started, optimizer = time.time(), build("optimizer", cfg.optimizer)
        sparse = lambda key: (
            optimizer if method is None else jp.sparsify(optimizer, method, key=key)
        )
        model = model_of(cfg)
        trainer = Trainer(model, sparse(None))
        runs = [(seed, fold) for seed in cfg.seeds for fold in range(cfg.k_folds or 1)]
        results: list[dict[str, Any]] = []
        with Progress(cfg.steps * len(runs), "starting") as progress:
            for number, (seed, fold) in enumerate(runs):
                name, label = f"seed_{seed}", f"seed {seed}"
                if cfg.k_folds:
                    name, label = f"{name}/fold_{fold}", f"{label} · fold {fold}"
                info = _Info(cfg, options, progress, number * cfg.steps, label)
                found = _one(info, trainer, model, sparse, Folder(folder.path / name), seed, fold)
                if found is None:
                    return
                results.append({"seed": seed, **({"fold": fold} if cfg.k_folds else {}), **found})
        folder.finish(
            {
                "kind": "train",
                "config": cfg.to_dict(),
                "paper": cfg.paper.to_dict(),
                "seeds": results,
                "cost": {
                    "wall_seconds": time.time() - started,
                    "cpu_seconds": time.process_time(),
                },
            }
        )
        print(f"Report: {write_report(folder.path)}")


class _Info:
    """What the runs of one process share, and where this one stands among them."""

    def __init__(
        self, cfg: ConfigDict, options: Options, progress: Progress, offset: int, label: str
    ):
        self.cfg, self.options, self.progress = cfg, options, progress
        self.offset, self.label = offset, label


def _one(
    info: _Info, trainer: Trainer, model: Any, sparse: Any, folder: Folder, seed: int, fold: int
) -> dict[str, Any] | None:
    cfg = info.cfg
    task: Task = tasks(cfg, seed)[fold]
    init, noise, draws = jax.random.split(jax.random.fold_in(jax.random.key(seed), fold), 3)
    params, rest = fresh_variables(model, task, init)
    opt_state = sparse(draws).init(params)
    if cfg.method is not None:
        params = jp.masks.apply(params, jp.masks_of(opt_state))
    start = TrainState(params, rest, opt_state)
    run = Run(
        cfg=cfg,
        task=task,
        key=noise,
        folder=folder,
        progress=info.progress,
        offset=info.offset,
        stopper=info.options.stopper,
        label=info.label,
        order=(seed, fold),
    )

    def describe(level: Level, state: TrainState) -> dict[str, Any]:
        if cfg.method is None:
            return {"sparsity": 0.0, "digest": digest(state.params)}
        mask_files.save(folder.path / "masks.npz", state.masks)
        return {
            "sparsity": float(jp.masks.sparsity(state.masks)),
            "per_leaf": jp.masks.summary(state.masks),
            "digest": digest((state.params, state.masks)),
        }

    method = build("method", cfg.method)
    level = Level(0, 0, cfg.steps, settled=0 if method is None else method.schedule.end + 1)
    found = fit(trainer, [level], lambda level: start, run, describe)
    if found is None:
        return None
    (result,) = found
    return {
        "test_accuracy": result.pop("test_final"),
        **({"test_accuracy_early": result.pop("test_early")} if "test_early" in result else {}),
        **result,
    }
