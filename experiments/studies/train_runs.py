"""What `experiments.train` runs: each seed, or each fold of each seed, and the report."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import ways
from experiments.config.fields import DENSE
from experiments.metrics import savings, shrunk, training_cost
from experiments.reports.report import write_report
from experiments.runs import mask_files
from experiments.runs.folder import Folder, RunFolder
from experiments.runs.options import Options
from experiments.runs.progress import Progress
from experiments.studies import dry_run
from experiments.training.augment import augment_of
from experiments.training.loop import Level, Run, digest, fit
from experiments.training.task import Task, fresh_variables, model_of, scale, tasks
from experiments.training.trainer import Trainer, TrainState
from experiments.ways import checks
from experiments.ways.coupled_units import axes_of
from experiments.ways.fixed_masks import Setting
from experiments.ways.recipe import Recipe, Transform
from experiments.ways.recipe import recipe as recipe_of

__all__ = ["Info", "run", "train_once"]


def run(cfg: ConfigDict, options: Options) -> None:
    """Runs, or goes on with, all seeds of a config; then writes the report."""
    kind = ways(cfg) or DENSE
    where = f"config.{kind}"
    found = recipe_of(cfg, kind, cfg.get(kind), where)
    checks.check_schedule(found.method, cfg.steps, where)
    checked = checks.checked(found.optimizer, cfg, where, gate=found.gate)
    if options.dry_run:
        print(dry_run.describe(cfg))
        return
    checks.check_data(cfg)
    with RunFolder.open(options.workdir, options.config_name, cfg) as folder:
        if folder.done:
            print(f"Report: {write_report(folder.path)}")
            return
        started, model = time.time(), model_of(cfg)
        trainer = Trainer(model, checked, augment_of(cfg), found.gate)
        runs = [(seed, fold) for seed in cfg.seeds for fold in range(cfg.k_folds or 1)]
        results: list[dict[str, Any]] = []
        dense = savings.dense(cfg)
        with Progress(cfg.steps * len(runs), "starting") as progress:
            for number, (seed, fold) in enumerate(runs):
                name, label = f"seed_{seed}", f"seed {seed}"
                if cfg.k_folds:
                    name, label = f"{name}/fold_{fold}", f"{label} · fold {fold}"
                info = Info(cfg, options, progress, number * cfg.steps, label)
                own = Folder(folder.path / name)
                ended = train_once(info, trainer, model, found, own, seed, fold)
                if ended is None:
                    return
                saved = savings.of(dense, ended["per_leaf"]) if "per_leaf" in ended else {}
                named = {"seed": seed, **({"fold": fold} if cfg.k_folds else {})}
                results.append({**named, **ended, **saved})
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
    recipe: Recipe,
    folder: Folder,
    seed: int,
    fold: int = 0,
    more: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any] | None:
    """Trains, or goes on with, one seed.

    Args:
      info: what it shares with others.
      trainer: compiled for this model and recipe.
      model: a linen module.
      recipe: how the model becomes sparse.
      folder: of this training alone.
      seed: of the initial weights, the hold-out and the order of the examples: the same for every method.
      fold: of a cross-validation.
      more: results to add when it is over.

    Returns:
      Its results, or `None` if it was asked to stop.
    """
    cfg, steps = info.cfg, recipe.steps(info.cfg)
    if folder.done:
        info.progress.update(info.offset + steps, info.label)
        return _renamed(folder.results[0])
    task: Task = tasks(cfg, seed)[fold]
    init, noise, draws = jax.random.split(jax.random.fold_in(jax.random.key(seed), fold), 3)
    params, rest = fresh_variables(model, task, init)
    initial = digest(params)
    if recipe.gate is not None:
        params = recipe.gate.init(params, draws)
    if recipe.start is None:
        opt_state = _initializer(recipe.transform)(draws, params)
    else:
        found = recipe.start(Setting(model, task, params, rest, draws, folder.path))
        params, rest, masks = found
        opt_state = recipe.transform(masks).init(params)
    if recipe.masked:
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
        workdir=info.options.workdir,
    )

    def describe(level: Level, state: TrainState) -> dict[str, Any]:
        common, network = {"initial": initial, **more()}, trainer.network(state, steps)
        if recipe.kind == DENSE:
            return {"sparsity": 0.0, "digest": digest(network), **common}
        if recipe.kind == "subgradient":  # there are no masks, and hardly a zero
            all_of = jp.masks.make(network, cfg.prunable or None, axes=axes_of(cfg))
            masks = jax.tree.map(lambda w, m: m if m is None else w != 0, network, all_of)
        else:
            masks = trainer.masks(state, steps)
        mask_files.save(folder.path / "masks.npz", masks)
        useful = _effective(model, network, state.rest, masks, task)
        return {
            "sparsity": float(jp.masks.sparsity(masks)),
            **({"effective_sparsity": float(jp.masks.sparsity(useful))} if useful else {}),
            **shrunk.of(model, network, state.rest, useful or masks, task, timed=bool(cfg.compare)),
            **_cost(recipe, state, cfg, _per_leaf(masks, useful, axes_of(cfg))),
            "digest": digest((network, masks)),
            **common,
        }

    settled = steps if recipe.settled is None else recipe.settled
    level = Level(0, 0, steps, settled=settled)
    found = fit(trainer, [level], lambda level: start, run, describe)
    return None if found is None else _renamed(found[0])


@functools.lru_cache(maxsize=1)
def _initializer(transform: Transform) -> Any:
    """Compiled once for all seeds."""
    return jax.jit(lambda key, params: transform(key).init(params))


def _effective(model: Any, params: Any, rest: Any, masks: Any, task: Task) -> Any:
    """The masks of what is left where dead units are removed; `None` where that cannot be told."""
    forward = lambda variables, x: model.apply(variables, x, train=False)
    nothing = jax.tree.map(lambda x: None, rest)
    variables, masks = {"params": params, **rest}, {"params": masks, **nothing}
    try:
        return jp.metrics.effective(forward, variables, masks, scale(task.inputs[:1]))["params"]
    except ValueError:  # LayerNorm, attention
        return None


def _cost(
    recipe: Recipe, state: TrainState, cfg: ConfigDict, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The rows with the share of dense training that each leaf has cost, and what was ever alive."""
    if not recipe.recorded:
        return {"per_leaf": [{**row, "training": 1.0} for row in rows]}
    record, steps = jp.record_of(state.opt_state), recipe.steps(cfg)
    found = training_cost.shares(recipe.method, record.density, steps, dense=recipe.learned)
    shares = jax.tree.leaves(found)
    return {
        **({"explored": float(record.exploration)} if recipe.after is None else {}),
        "per_leaf": [{**row, "training": s} for row, s in zip(rows, shares, strict=True)],
    }


def _per_leaf(masks: Any, useful: Any, axes: Any) -> list[dict[str, Any]]:
    """Weights kept; of those, if known, the effective ones, and the inputs and outputs that have any."""
    if useful is None:
        return jp.masks.summary(masks)
    alive = {unit["leaf"]: unit for unit in jp.metrics.units(useful, axes)}
    pairs = zip(jp.masks.summary(masks), jp.masks.summary(useful), strict=True)
    return [
        {**leaf, "effective": other["kept"], **alive.get(leaf["leaf"], {})} for leaf, other in pairs
    ]


def _renamed(result: dict[str, Any]) -> dict[str, Any]:
    """What `fit` found, by the names of the results file."""
    result = dict(result)
    return {
        "test_accuracy": result.pop("test_final"),
        **({"test_accuracy_early": result.pop("test_early")} if "test_early" in result else {}),
        **result,
    }
