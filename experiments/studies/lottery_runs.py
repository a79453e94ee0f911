"""What `experiments.lottery` runs: the ticket of each seed, its controls, and the report."""

import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError, build, part
from experiments.reports.lottery import REPORT
from experiments.reports.report import write_report
from experiments.runs.folder import Folder, RunFolder
from experiments.runs.level_files import LevelFiles
from experiments.runs.options import Options
from experiments.runs.progress import Progress
from experiments.studies import dry_run
from experiments.training.loop import Level, Run, fit
from experiments.training.setup import setup as setup_of
from experiments.training.task import fresh_variables, tasks
from experiments.training.trainer import Trainer, TrainState
from experiments.training.tree_digest import digest
from experiments.ways import checks
from experiments.ways.coupled_units import with_units

__all__ = ["completed", "keys_of_seed", "plan_of", "run"]


def run(cfg: ConfigDict, section: dict[str, Any], options: Options) -> None:
    """Runs, or goes on with, all seeds of a config; then writes the report.

    Args:
      cfg: the config.
      section: the fields of its section.
      options: of the command line.
    """
    full_cfg = completed(cfg, section)
    plan = plan_of(full_cfg)
    ticket = _Ticket(full_cfg, plan)
    if options.dry_run:
        print(dry_run.describe_ticket(ticket.setup, ticket.method, plan.rounds))
        return
    checks.check_data(full_cfg)
    with RunFolder.open(
        options.workdir, options.config_name, cfg, "lottery", options.seeds_from
    ) as folder:
        if folder.done:
            print(f"Report: {write_report(folder.path, REPORT)}")
            return
        per_seed = _updates(full_cfg, plan)
        results = []
        with Progress(per_seed * len(cfg.seeds), "starting") as progress:
            for seed_index, seed in enumerate(cfg.seeds):
                offset = seed_index * per_seed
                result = _Seed(ticket, seed, folder, options, progress, offset).run()
                if result is None:
                    return
                results.append(result)
        folder.finish(
            {
                "kind": "lottery",
                "config": full_cfg.to_dict(),
                "paper": full_cfg.paper.to_dict(),
                "steps_per_level": full_cfg.steps,
                "seeds": results,
            }
        )
        print(f"Report: {write_report(folder.path, REPORT)}")


def completed(cfg: ConfigDict, section: dict[str, Any]) -> ConfigDict:
    """Returns the config with `lottery` at its defaults where it says nothing.

    Args:
      cfg: the config.
      section: the fields of its section.
    """
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.lottery = ConfigDict(section)
    return cfg


def keys_of_seed(seed: int) -> dict[str, jax.Array]:
    """Returns the PRNG keys of a seed, by what they are for."""
    names = ("init", "noise", "method", "controls")
    return dict(zip(names, jax.random.split(jax.random.key(seed), 4), strict=True))


def plan_of(cfg: ConfigDict) -> jp.lottery.Plan:
    """Returns the plan of the tickets of a config that is `completed`."""
    section = cfg.lottery
    try:
        return jp.lottery.Plan(cfg.steps, section.rounds, section.rewind_to, section.rewind)
    except ValueError as e:
        raise UserError(f"config.lottery: {e}") from e


def _updates(cfg: ConfigDict, plan: jp.lottery.Plan) -> int:
    """Updates of one seed, controls included."""
    controls = len(cfg.lottery.controls) * cfg.lottery.repeats
    return plan.total_updates + controls * plan.rounds * plan.round_steps


class _Ticket:
    """The optimizers and compiled functions that all seeds share."""

    def __init__(self, cfg: ConfigDict, plan: jp.lottery.Plan):
        setup = setup_of(cfg)
        self.setup = setup
        self.plan = plan
        self.method = with_units(setup, build("method", cfg.method), "config.method")
        if cfg.lottery.criterion:
            criterion = build("criterion", part(cfg.lottery.criterion))
            self.method = dataclasses.replace(self.method, criterion=criterion)
        try:  # of this key its kind alone is read: each seed's own is in its state
            ticket = self.transform(jax.random.key(0))
        except (TypeError, ValueError) as e:
            raise UserError(f"config.method: {e}") from e
        checks.checked(ticket, setup, "config.method")
        self.trainer = Trainer(setup.model, ticket, setup.augment)
        control = jp.fixed(setup.optimizer, None)
        self.control_trainer = Trainer(setup.model, control, setup.augment)

    def transform(self, key: jax.Array) -> Any:
        """Returns the transform that trains, prunes and rewinds."""
        setup = self.setup
        options = {"prunable": setup.prunable, "axes": setup.axes, "key": key}
        return jp.lottery_ticket(setup.optimizer, self.method, self.plan, **options)


class _Seed:
    """One seed: its data, its ticket, its controls."""

    def __init__(
        self,
        ticket: _Ticket,
        seed: int,
        folder: RunFolder,
        options: Options,
        progress: Progress,
        offset: int,
    ):
        self.ticket = ticket
        self.setup = ticket.setup
        self.plan = ticket.plan
        self.seed = seed
        self.options = options
        self.progress = progress
        self.offset = offset  # updates of the seeds before
        self.folder = folder.seed(seed)
        self.kept_levels = LevelFiles(self.folder.path)
        self.keys = keys_of_seed(seed)

    def run(self) -> dict[str, Any] | None:
        """Returns the seed's results, or `None` if it was asked to stop."""
        if self.folder.done:
            return self.folder.results
        section = self.setup.cfg.lottery
        self.task = tasks(self.setup.cfg, self.seed)[0]
        ticket_levels = self._run_ticket()
        if ticket_levels is None:
            return None
        repeats = range(section.repeats if self.plan.rounds else 0)
        streams = [(name, repeat) for name in section.controls for repeat in repeats]
        controls: dict[str, list[list[dict[str, Any]]]] = {}
        for stream, (name, repeat) in enumerate(streams, start=1):
            control_levels = self._run_control(name, repeat, stream)
            if control_levels is None:
                return None
            controls.setdefault(name, []).append(control_levels)
        levels = []
        for level_index, result in enumerate(ticket_levels):
            branches: dict[str, Any] = {"ticket": result}
            if level_index:  # controls begin with the first masks
                for name, of_repeats in controls.items():
                    branches[name] = [of_levels[level_index - 1] for of_levels in of_repeats]
            levels.append(
                {
                    "level": result["level"],
                    "remaining": 1 - result["sparsity"],
                    "branches": branches,
                }
            )
        results = {"seed": self.seed, "levels": levels}
        self.folder.finish(results)
        return results

    def _run_ticket(self) -> list[dict[str, Any]] | None:
        plan = self.plan
        transform = self.ticket.transform(self.keys["method"])
        params, rest = self._init(self.keys["init"])
        start = TrainState(params, rest, transform.init(params))
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

        def begin(level: Level) -> TrainState | None:
            return start if level.name == 0 else None

        def store(level: Level, state: TrainState) -> dict[str, Any]:
            variables = {"params": state.params, **state.rest}
            self.kept_levels.save_level(level.name, state.masks, variables)
            return _describe(level, state)

        def store_point(state: TrainState) -> None:
            self.kept_levels.save_point(state._replace(opt_state=state.opt_state.inner))

        if not plan.rewind_to and not (self.folder.path / "ticket" / "done").exists():
            store_point(start)
        run = self._fit_run("ticket", "ticket", 0)
        return fit(self.ticket.trainer, levels, begin, run, store, store_point)

    def _init(self, key: jax.Array) -> tuple[Any, Any]:
        return fresh_variables(self.setup.model, self.task, key)

    def _run_control(self, name: str, repeat: int, stream: int) -> list[dict[str, Any]] | None:
        params, rest = self._init(self.keys["init"])
        steps = self.plan.round_steps
        levels = [Level(i, (i - 1) * steps, i * steps) for i in range(1, self.plan.rounds + 1)]
        keys = jax.random.split(jax.random.fold_in(self.keys["controls"], stream), len(levels))

        def begin(level: Level) -> TrainState:
            key = keys[level.name - 1]
            masks = self.kept_levels.masks(level.name, params)
            weights = params
            if name == "reinit":
                weights, _ = self._init(key)
            else:
                masks = jp.masks.shuffle(masks, key, self.setup.axes)
            weights = jp.masks.apply(weights, masks)
            opt_state = jp.fixed(self.setup.optimizer, masks).init(weights)
            return TrainState(weights, rest, opt_state)

        label = f"{name} {repeat + 1}" if self.setup.cfg.lottery.repeats > 1 else name
        fit_run = self._fit_run(f"{name}_{repeat}", label, stream)
        return fit(self.ticket.control_trainer, levels, begin, fit_run, _describe)

    def _fit_run(self, folder: str, label: str, stream: int) -> Run:
        """Where one `fit` of this seed writes; the ticket is stream 0, controls follow."""
        controls = self.plan.total_updates + (stream - 1) * self.plan.rounds * self.plan.round_steps
        return Run(
            cfg=self.setup.cfg,
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
