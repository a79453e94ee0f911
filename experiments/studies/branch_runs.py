"""What `experiments.branches` runs: tickets, their branches, the lines between copies, and the report."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError
from experiments.reports import stats
from experiments.reports.branches import REPORT
from experiments.reports.report import write_report
from experiments.runs import tree_files
from experiments.runs.folder import Folder, RunFolder
from experiments.runs.level_files import LevelFiles
from experiments.runs.options import Options
from experiments.runs.progress import Progress
from experiments.studies import lottery_runs
from experiments.studies.branch_plan import FIELDS, Branch, Plan
from experiments.studies.branch_starts import Starts
from experiments.studies.branch_tickets import ticket_folder, tickets_of_sources
from experiments.studies.lottery_runs import completed, keys_of_seed, plan_of
from experiments.training.distillation import Teacher
from experiments.training.divergence import DivergedError
from experiments.training.failures import failure, record_failure
from experiments.training.loop import Level, Run, fit
from experiments.training.setup import Setup
from experiments.training.setup import setup as setup_of
from experiments.training.statistics import measured
from experiments.training.task import Task, tasks
from experiments.training.trainer import Trainer, TrainState
from experiments.training.tree_digest import digest
from experiments.ways import checks

__all__ = ["run"]


def run(cfg: ConfigDict, plan: Plan, options: Options) -> None:
    """Runs, or goes on with, tickets and branches of a config; then writes the report.

    Args:
      cfg: the config.
      plan: what it asks for.
      options: of the command line.
    """
    folders = {}
    for label, (ticket_cfg, section) in plan.tickets.items():
        folders[label] = ticket_folder(options, ticket_cfg)
        if (folders[label] / "done").is_file() and not options.dry_run:
            continue  # its folder stays as it is
        own_name = folders[label].name.rpartition("-")[0]
        own_options = options._replace(
            config_name=own_name, seeds_from=tickets_of_sources(options, ticket_cfg)
        )
        lottery_runs.run(ticket_cfg, section, own_options)
        if options.stopper.requested:
            return
    if options.dry_run:
        print(_planned(cfg, plan))
        return
    checks.check_data(cfg)
    with RunFolder.open(
        options.workdir, options.config_name, cfg, "branches", options.seeds_from
    ) as folder:
        if folder.done:
            print(f"Report: {write_report(folder.path, REPORT)}")
            return
        tickets = {label: Folder(path) for label, path in folders.items()}
        study = _Study(cfg, plan, tickets, folder, options)
        seeds = study.run()
        if seeds is None:
            return
        folder.finish(
            {
                "kind": "branches",
                "config": {
                    **cfg.to_dict(),
                    "lottery": study.setup.cfg.lottery.to_dict(),
                    "branches": {**FIELDS, **cfg.branches.to_dict()},
                },
                "paper": cfg.paper.to_dict(),
                "tickets": {label: path.name for label, path in folders.items()},
                "branches": {
                    plan.name(ticket, branch.label): str(branch)
                    for ticket in plan.tickets
                    for branch in plan.branches
                },
                "seeds": seeds,
                "overlaps": study.overlaps(),
                "cost": {"trainings": plan.training_count * len(cfg.seeds)},
            }
        )
        print(f"Report: {write_report(folder.path, REPORT)}")


def _planned(cfg: ConfigDict, plan: Plan) -> str:
    """Returns in words what would be trained after the tickets."""
    lines = [f"{branch.label}: {branch}" for branch in plan.branches]
    count = plan.training_count
    lines.append(
        f"{count} trainings for each of {len(cfg.seeds)} seeds, from the levels {list(plan.levels)} of "
        f"{', '.join(plan.tickets)}; {count * cfg.steps * len(cfg.seeds):,} updates at most"
    )
    return "\n".join(lines)


class _Study:
    """The trainings of all seeds, tickets and branches."""

    def __init__(
        self,
        cfg: ConfigDict,
        plan: Plan,
        tickets: Mapping[str, Folder],
        folder: RunFolder,
        options: Options,
    ):
        self.plan = plan
        self.tickets = tickets
        self.folder = folder
        self.options = options
        sections = {label: section for label, (_, section) in plan.tickets.items()}
        self.ticket_plans = {
            label: plan_of(completed(cfg, section)) for label, section in sections.items()
        }
        self.setup = setup_of(completed(cfg, next(iter(sections.values()))))
        optimizer = self.setup.optimizer
        self.trainers = {
            # The masks are in the state.
            is_zero: Trainer(self.setup.model, transform(optimizer, None), self.setup.augment)
            for is_zero, transform in ((True, jp.fixed), (False, jp.lottery.frozen_pruned))
        }
        trainings = itertools.product(plan.tickets, plan.branches)
        self.updates_per_seed = plan.copies * sum(
            _training_steps(branch, self.ticket_plans[ticket]) * len(plan.levels_of(branch))
            for ticket, branch in trainings
        )

    def run(self) -> list[dict[str, Any]] | None:
        """Returns the results of all seeds, or `None` if it was asked to stop."""
        seeds = self.setup.cfg.seeds
        results = []
        with Progress(max(self.updates_per_seed * len(seeds), 1), "starting") as progress:
            for seed_index, seed in enumerate(seeds):
                result = _Seed(self, seed, progress, seed_index * self.updates_per_seed).run()
                if result is None:
                    return None
                results.append(result)
        return results

    def overlaps(self) -> dict[str, list[dict[str, float]]]:
        """Returns per ticket and level how alike the masks of each two seeds are, and would be by chance."""
        params = jax.eval_shape(self.setup.model.init, jax.random.key(0), self.setup.example())[
            "params"
        ]
        overlaps = {}
        for label, folder in self.tickets.items():
            kept = [LevelFiles(folder.path / f"seed_{seed}") for seed in self.setup.cfg.seeds]
            rows = []
            for level in range(1, self.ticket_plans[label].rounds + 1):
                masks = [levels.masks(level, params) for levels in kept]
                pairs = [
                    jp.lottery.overlap(a, b, self.setup.axes)
                    for a, b in itertools.combinations(masks, 2)
                ]
                if pairs:
                    means = {
                        name: stats.mean([getattr(pair, name) for pair in pairs])
                        for name in ("jaccard", "expected")
                    }
                    rows.append({"level": level, "pairs": len(pairs), **means})
            overlaps[label] = rows
        return overlaps


def _training_steps(branch: Branch, plan: jp.lottery.Plan) -> int:
    """Returns the number of updates of one training: rewound weights have made some before."""
    return plan.round_steps - (plan.rewind_to if branch.kept == "rewound" else 0)


class _Seed:
    """One seed: its tickets are read, its branches trained."""

    def __init__(self, study: _Study, seed: int, progress: Progress, offset: int):
        self.study = study
        self.setup: Setup = study.setup
        self.plan = study.plan
        self.seed = seed
        self.progress = progress
        self.offset = offset  # updates of the trainings before
        self.folder = study.folder.seed(seed)

    def run(self) -> dict[str, Any] | None:
        """Returns the seed's results, or `None` if it was asked to stop."""
        if self.folder.done:
            self._check_tickets(self.folder.results["levels"])
            return self.folder.results
        self.task: Task = tasks(self.setup.cfg, self.seed)[0]
        levels: list[dict[str, Any]] = []
        lines = []
        for ticket, run_folder in self.study.tickets.items():
            ticket_folder = Folder(run_folder.path / f"seed_{self.seed}")
            _add_ticket(levels, self.plan.name(ticket), ticket_folder.results["levels"])
            starts = Starts(self.setup, self.task, self.seed, LevelFiles(ticket_folder.path))
            for branch in self.plan.branches:
                trained = self._run_branch(ticket, branch, starts)
                if trained is None:
                    return None
                name = self.plan.name(ticket, branch.label)
                for level, copies in trained.items():
                    levels[level]["branches"][name] = copies
                lines += self._lines(ticket, branch, starts, name, levels)
        results = {"seed": self.seed, "levels": levels, "lines": lines}
        self.folder.finish(results)
        return results

    def _check_tickets(self, levels: Sequence[Mapping[str, Any]]) -> None:
        """Refuses finished branches that began with other tickets than those that are read."""
        for ticket, run_folder in self.study.tickets.items():
            name = self.plan.name(ticket)
            ticket_levels = Folder(run_folder.path / f"seed_{self.seed}").results["levels"]
            for level, ticket_level in zip(levels, ticket_levels, strict=True):
                if level["branches"][name] != ticket_level["branches"]["ticket"]:
                    raise UserError(
                        f"{self.folder.path}: level {level['level']} of its ticket is not that of "
                        f"{run_folder.path}; set another --workdir."
                    )

    def _run_branch(
        self, ticket: str, branch: Branch, starts: Starts
    ) -> dict[int, list[dict[str, Any]]] | None:
        """Returns the results of each copy by level, or why it has none; `None` if it was asked to stop."""
        by_level: dict[int, list[dict[str, Any]]] = {
            level: [] for level in self.plan.levels_of(branch)
        }
        for copy in range(self.plan.copies):
            results = self._train(ticket, branch, copy, starts)
            if results is None:
                return None
            for result in results:
                by_level[result["level"]].append(result)
        return by_level

    def _train(
        self, ticket: str, branch: Branch, copy: int, starts: Starts
    ) -> list[dict[str, Any]] | None:
        """Returns the results of one copy at each level; of one that diverged, why, at all of them."""
        plan = self.study.ticket_plans[ticket]
        trainer = self.study.trainers[branch.pruned == "zero"]
        steps = _training_steps(branch, plan)
        levels = [
            Level(level, i * steps, (i + 1) * steps, first=plan.round_steps - steps)
            for i, level in enumerate(self.plan.levels_of(branch))
        ]
        folder = self._folder_of(ticket, branch, copy)
        last_update = self.offset + levels[-1].stop
        if (recorded := failure(folder)) is not None:
            self.offset = last_update
            return [{"level": level.name, **recorded} for level in levels]

        def begin(level: Level) -> TrainState:
            return starts.state(branch, level.name)

        def describe(level: Level, state: TrainState) -> dict[str, Any]:
            if self.plan.copies > 1:
                variables = {"params": state.params, **state.rest}
                tree_files.save(_variables_path(folder, level.name), variables)
            return {
                "sparsity": float(jp.masks.sparsity(state.masks)),
                **self._untrained(trainer, begin(level)),
                "digest": digest((state.params, state.masks)),
            }

        task = self.task
        if branch.targets == "dense network":
            task = task._replace(teacher=Teacher(starts.trained(0), self.plan.temperature))
        run = Run(
            cfg=self.setup.cfg,
            task=task,
            key=jax.random.fold_in(keys_of_seed(self.seed)["noise"], copy),
            folder=Folder(folder),
            progress=self.progress,
            offset=self.offset,
            stopper=self.study.options.stopper,
            label=f"seed {self.seed} · {self.plan.name(ticket, branch.label)} {copy}",
            order=(self.seed, copy),  # that of the ticket itself for copy 0
            workdir=self.study.options.workdir,
        )
        try:
            results = fit(trainer, levels, begin, run, describe)
        except DivergedError as error:
            recorded = record_failure(folder, error)
            results = [{"level": level.name, **recorded} for level in levels]
        self.offset = last_update
        return results

    def _untrained(self, trainer: Trainer, state: TrainState) -> dict[str, float]:
        """Returns the accuracy before the first update; statistics of BatchNorm are not yet any then."""
        if state.rest:
            return {}
        _, accuracy = trainer.evaluate(state.params, state.rest, self.task.test)
        return {"untrained_accuracy": accuracy}

    def _lines(
        self,
        ticket: str,
        branch: Branch,
        starts: Starts,
        name: str,
        levels: Sequence[dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """Returns the test errors between each two copies; each copy's mean instability joins its results."""
        if self.plan.copies < 2:
            return []
        trainer = self.study.trainers[True]
        model = self.setup.model

        def error(variables: Any) -> float:
            params, rest = _split(variables)
            return 1 - trainer.evaluate(params, rest, self.task.test)[1]

        def recompute(variables: Any) -> Any:
            params, rest = _split(variables)
            return {"params": params, **measured(model, params, rest, self.task)}

        lines = []
        for level in self.plan.levels_of(branch):
            if any("failed" in result for result in levels[level]["branches"][name]):
                continue
            template = starts.trained(level)
            ends = [
                tree_files.load(
                    _variables_path(self._folder_of(ticket, branch, copy), level), template
                )
                for copy in range(self.plan.copies)
            ]
            of_copies: list[list[float]] = [[] for _ in ends]
            for pair in itertools.combinations(range(len(ends)), 2):
                line = jp.lottery.errors_along_line(
                    error,
                    *(ends[copy] for copy in pair),
                    points=self.plan.alphas,
                    recompute=recompute,
                )
                lines.append(
                    {"branch": name, "level": level, "copies": pair, "errors": line.errors}
                )
                for copy in pair:
                    of_copies[copy].append(line.instability)
            for result, instabilities in zip(
                levels[level]["branches"][name], of_copies, strict=True
            ):
                result["instability"] = stats.mean(instabilities)
        return lines

    def _folder_of(self, ticket: str, branch: Branch, copy: int) -> Path:
        return self.folder.path / ticket / branch.label / f"copy_{copy}"


def _add_ticket(
    levels: list[dict[str, Any]], name: str, ticket_levels: Sequence[Mapping[str, Any]]
) -> None:
    """Adds the results of a ticket to those of a seed; the first ticket's level 0 is the dense network."""
    for index, ticket_level in enumerate(ticket_levels):
        result = ticket_level["branches"]["ticket"]
        if index == len(levels):
            branches = {} if index else {"dense": result}
            levels.append({**ticket_level, "branches": branches})
        levels[index]["branches"][name] = result


def _variables_path(folder: Path, level: int) -> Path:
    return folder / "levels" / f"level_{level:02d}.npz"


def _split(variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns parameters and other variables."""
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    return variables["params"], rest
