"""What `experiments.lottery` runs: the ticket of each seed, its controls, and the report."""

import functools
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError, build, sections
from experiments.reports.report import write_report
from experiments.runs import mask_files
from experiments.runs.folder import Folder, RunFolder
from experiments.runs.options import Options
from experiments.runs.progress import Progress
from experiments.studies import dry_run
from experiments.training.augment import augment_of
from experiments.training.loop import Level, Run, digest, fit
from experiments.training.task import fresh_variables, model_of, tasks
from experiments.training.trainer import Trainer, TrainState
from experiments.ways import checks
from experiments.ways.coupled_units import axes_of, with_units

__all__ = ["plan_of", "run"]


def plan_of(cfg: ConfigDict) -> jp.lottery.Plan:
    """Returns the plan of a config's ticket."""
    asked = sections.lottery(cfg)
    try:
        return jp.lottery.Plan(cfg.steps, asked["rounds"], asked["rewind_to"], asked["rewind"])
    except ValueError as e:
        raise UserError(f"config.lottery: {e}") from e


def run(cfg: ConfigDict, options: Options) -> None:
    """Runs, or goes on with, all seeds of a config; then writes the report."""
    asked, cfg = cfg, _completed(cfg)
    plan = plan_of(cfg)
    compiled = _Compiled(cfg, plan)
    if options.dry_run:
        print(dry_run.describe(cfg, plan.rounds))
        return
    checks.check_data(cfg)
    with RunFolder.open(options.workdir, options.config_name, asked) as folder:
        if folder.done:
            print(f"Report: {write_report(folder.path)}")
            return
        started = time.time()
        per_seed = _updates(cfg, plan)
        with Progress(per_seed * len(cfg.seeds), "starting") as progress:
            seeds = []
            for i, seed in enumerate(cfg.seeds):
                at = i * per_seed
                found = _Seed(cfg, plan, compiled, seed, folder, options, progress, at).run()
                if found is None:
                    return
                seeds.append(found)
        results = {
            "kind": "lottery",
            "config": cfg.to_dict(),
            "paper": cfg.paper.to_dict(),
            "steps_per_level": cfg.steps,
            "seeds": seeds,
            "cost": {"wall_seconds": time.time() - started, "cpu_seconds": time.process_time()},
        }
        folder.finish(results)
        print(f"Report: {write_report(folder.path)}")


def _completed(cfg: ConfigDict) -> ConfigDict:
    """The config with `lottery` at its defaults where it says nothing."""
    asked = sections.lottery(cfg)
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.lottery = ConfigDict(asked)
    return cfg


def _updates(cfg: ConfigDict, plan: jp.lottery.Plan) -> int:
    """Updates of one seed, controls included."""
    controls = len(cfg.lottery.controls) * cfg.lottery.repeats
    return plan.total_updates + controls * plan.rounds * plan.round_steps


class _Compiled:
    """The optimizers and compiled functions that all seeds share."""

    def __init__(self, cfg: ConfigDict, plan: jp.lottery.Plan):
        self.optimizer = build("optimizer", cfg.optimizer)
        self.method = with_units(cfg, build("method", cfg.method), "config.method")
        self.model = model_of(cfg)
        self.transform = functools.partial(
            jp.lottery_ticket,
            self.optimizer,
            self.method,
            plan,
            prunable=cfg.prunable or None,
            axes=axes_of(cfg),
        )
        try:  # of this key its kind alone is read: each seed's own is in its state
            ticket = self.transform(key=jax.random.key(0))
        except (TypeError, ValueError) as e:
            raise UserError(f"config.method: {e}") from e
        checks.checked(ticket, cfg, "config.method")
        self.ticket = Trainer(self.model, ticket, augment_of(cfg))
        self.control = Trainer(self.model, jp.fixed(self.optimizer, None), augment_of(cfg))


class _Seed:
    """One seed: its data, its ticket, its controls."""

    def __init__(
        self, cfg, plan, compiled: _Compiled, seed, folder: RunFolder, options, progress, offset
    ):
        self.cfg, self.plan, self.compiled, self.seed = cfg, plan, compiled, seed
        self.options, self.progress, self.offset = options, progress, offset
        self.folder = folder.seed(seed)
        names = ("init", "noise", "method", "controls")
        self.keys = dict(zip(names, jax.random.split(jax.random.key(seed), 4), strict=True))

    def run(self) -> dict[str, Any] | None:
        """Returns the seed's results, or `None` if it was asked to stop."""
        if self.folder.done:
            return self.folder.results
        self.task = tasks(self.cfg, self.seed)[0]
        ticket = self._ticket()
        if ticket is None:
            return None
        branches: dict[str, list[list[dict[str, Any]]]] = {}
        repeats = range(self.cfg.lottery.repeats if self.plan.rounds else 0)
        streams = [(name, repeat) for name in self.cfg.lottery.controls for repeat in repeats]
        for stream, (name, repeat) in enumerate(streams, start=1):
            found = self._control(name, repeat, stream)
            if found is None:
                return None
            branches.setdefault(name, []).append(found)
        levels = [
            {
                "level": result["level"],
                "remaining": 1 - result["sparsity"],
                "branches": {"ticket": result}
                | {n: [r[i - 1] for r in repeats] for n, repeats in branches.items() if i},
            }
            for i, result in enumerate(ticket)
        ]
        results = {"seed": self.seed, "levels": levels}
        self.folder.finish(results)
        return results

    def _ticket(self) -> list[dict[str, Any]] | None:
        plan, shared = self.plan, self.compiled
        tx = shared.transform(key=self.keys["method"])
        params, rest = self._init(self.keys["init"])
        start = TrainState(params, rest, tx.init(params))
        levels = [
            Level(
                name=i,
                start=plan.level_start(i),
                stop=plan.level_end(i),
                first=plan.rewind_to if i else 0,
                mark=0 if i else plan.rewind_to,
                rewinds=plan.rewind == "weights",
            )
            for i in range(plan.rounds + 1)
        ]

        def store(level: Level, state: TrainState) -> dict[str, Any]:
            mask_files.save(self._masks_of(level), state.masks)
            return _describe(level, state)

        begin = lambda level: start if level.name == 0 else None
        return fit(shared.ticket, levels, begin, self._info("ticket", "ticket", 0), store)

    def _init(self, key: jax.Array) -> tuple[Any, Any]:
        return fresh_variables(self.compiled.model, self.task, key)

    def _control(self, name: str, repeat: int, stream: int) -> list[dict[str, Any]] | None:
        params, rest = self._init(self.keys["init"])
        optimizer, steps = self.compiled.optimizer, self.plan.round_steps
        levels = [Level(i, (i - 1) * steps, i * steps) for i in range(1, self.plan.rounds + 1)]
        masks_of = lambda level: mask_files.load(self._masks_of(level), params)
        keys = jax.random.split(jax.random.fold_in(self.keys["controls"], stream), len(levels))

        def begin(level: Level) -> TrainState:
            key, masks, weights = keys[level.name - 1], masks_of(level), params
            if name == "reinit":
                weights, _ = self._init(key)
            else:
                masks = jp.masks.shuffle(masks, key, axes_of(self.cfg))
            weights = jp.masks.apply(weights, masks)
            return TrainState(weights, rest, jp.fixed(optimizer, masks).init(weights))

        label = f"{name} {repeat + 1}" if self.cfg.lottery.repeats > 1 else name
        info = self._info(f"{name}_{repeat}", label, stream)
        return fit(self.compiled.control, levels, begin, info, _describe)

    def _masks_of(self, level: Level) -> Path:
        return self.folder.path / "masks" / f"level_{level.name:02d}.npz"

    def _info(self, folder: str, label: str, stream: int) -> Run:
        controls = self.plan.total_updates + (stream - 1) * self.plan.rounds * self.plan.round_steps
        return Run(
            cfg=self.cfg,
            task=self.task,
            key=jax.random.fold_in(self.keys["noise"], stream),
            folder=Folder(self.folder.path / folder),
            progress=self.progress,
            offset=self.offset + (controls if stream else 0),
            stopper=self.options.stopper,
            label=f"seed {self.seed} · {label}",
            order=(self.seed, stream),
            workdir=self.options.workdir,
        )


def _describe(level: Level, state: TrainState) -> dict[str, Any]:
    sparsity = float(jp.masks.sparsity(state.masks))
    return {"sparsity": sparsity, "digest": digest((state.params, state.masks))}
