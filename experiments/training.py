"""What `experiments.train` runs: each seed, or each fold of each seed, and the report."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments import mask_files, plans, preflight
from experiments.augment import augment_of
from experiments.cli import Options
from experiments.config import build
from experiments.engine import Level, Run, Trainer, TrainState, digest, fit
from experiments.progress import Progress
from experiments.report import write_report
from experiments.run_folder import Folder, RunFolder
from experiments.task import Task, fresh_variables, model_of, tasks

__all__ = ["Info", "Sparse", "run", "train_once", "with_method"]

Sparse = Callable[[jax.Array], optax.GradientTransformation]


def run(cfg: ConfigDict, options: Options) -> None:
    """Runs, or goes on with, all seeds of a config; then writes the report."""
    method = build("method", cfg.method)
    preflight.check_schedule(method, cfg.steps, "config.method")
    if options.dry_run:
        print(plans.describe(cfg))
        return
    with RunFolder.open(options.workdir, options.config_name, cfg) as folder:
        if folder.done:
            print(f"This run is finished; its report: {folder.path / 'report.md'}")
            return
        started, optimizer = time.time(), build("optimizer", cfg.optimizer)
        sparse = functools.partial(with_method, optimizer, method, prunable=cfg.prunable)
        model = model_of(cfg)
        # Of this key its kind alone is read: each run's own is in its state.
        checked = preflight.checked(sparse(jax.random.key(0)), cfg, "config.method")
        trainer = Trainer(model, checked, augment_of(cfg))
        runs = [(seed, fold) for seed in cfg.seeds for fold in range(cfg.k_folds or 1)]
        results: list[dict[str, Any]] = []
        with Progress(cfg.steps * len(runs), "starting") as progress:
            for number, (seed, fold) in enumerate(runs):
                name, label = f"seed_{seed}", f"seed {seed}"
                if cfg.k_folds:
                    name, label = f"{name}/fold_{fold}", f"{label} · fold {fold}"
                info = Info(cfg, options, progress, number * cfg.steps, label)
                found = train_once(
                    info, trainer, model, method, sparse, Folder(folder.path / name), seed, fold
                )
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


def with_method(
    optimizer: optax.GradientTransformation,
    method: jp.Method | None,
    key: jax.Array | None,
    prunable: str = "",
) -> optax.GradientTransformation:
    """The optimizer with the method around it; `None` leaves it dense."""
    if method is None:
        return optimizer
    enforce = jp.straight_through if method.straight_through else jp.sparsify
    return enforce(optimizer, method, key=key, prunable=prunable or None)


class Info:
    """What the runs of one process share, and where this one stands among them."""

    def __init__(
        self, cfg: ConfigDict, options: Options, progress: Progress, offset: int, label: str
    ):
        self.cfg, self.options, self.progress = cfg, options, progress
        self.offset, self.label = offset, label


def train_once(
    info: Info,
    trainer: Trainer,
    model: Any,
    method: jp.Method | None,
    sparse: Sparse,
    folder: Folder,
    seed: int,
    fold: int = 0,
    more: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any] | None:
    """Trains, or goes on with, one seed.

    Args:
      info: what it shares with others.
      trainer: compiled for this model and method.
      model: a linen module.
      method: how the model becomes sparse, `None`: not at all.
      sparse: the optimizer for a key.
      folder: of this training alone.
      seed: of the initial weights, the hold-out and the order of the examples: the same for every method.
      fold: of a cross-validation.
      more: results to add when it is over.

    Returns:
      Its results, or `None` if it was asked to stop.
    """
    cfg = info.cfg
    if folder.done:
        info.progress.update(info.offset + cfg.steps, info.label)
        return _renamed(folder.results[0])
    task: Task = tasks(cfg, seed)[fold]
    init, noise, draws = jax.random.split(jax.random.fold_in(jax.random.key(seed), fold), 3)
    params, rest = fresh_variables(model, task, init)
    initial = digest(params)
    opt_state = _initializer(sparse)(draws, params)
    if method is not None and not method.straight_through:
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
        common = {"initial": initial, **more()}
        if method is None:
            return {"sparsity": 0.0, "digest": digest(state.params), **common}
        mask_files.save(folder.path / "masks.npz", state.masks)
        return {
            "sparsity": float(jp.masks.sparsity(state.masks)),
            "per_leaf": jp.masks.summary(state.masks),
            "digest": digest((state.network, state.masks)),
            **common,
        }

    level = Level(0, 0, cfg.steps, settled=0 if method is None else method.end + 1)
    found = fit(trainer, [level], lambda level: start, run, describe)
    return None if found is None else _renamed(found[0])


@functools.lru_cache(maxsize=1)
def _initializer(sparse: Sparse) -> Any:
    """Compiled once for all seeds."""
    return jax.jit(lambda key, params: sparse(key).init(params))


def _renamed(result: dict[str, Any]) -> dict[str, Any]:
    """What `fit` found, by the names of the results file."""
    result = dict(result)
    return {
        "test_accuracy": result.pop("test_final"),
        **({"test_accuracy_early": result.pop("test_early")} if "test_early" in result else {}),
        **result,
    }
