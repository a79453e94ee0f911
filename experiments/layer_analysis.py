"""What `experiments.sensitivity` runs: dense trainings, the analysis, the search, and its test."""

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments import criterion_files, preflight, savings, sections
from experiments.augment import augment_of
from experiments.cli import Options
from experiments.config import UserError, build, check_part, part
from experiments.contestants import DENSE
from experiments.engine import last_state
from experiments.files import replacing, write_json
from experiments.progress import Progress
from experiments.pruned import examples, gatherers_of, known_signals
from experiments.recipes import recipe
from experiments.report import write_report
from experiments.run_folder import Folder, RunFolder
from experiments.task import fresh_variables, model_of, tasks
from experiments.trainer import Trainer, TrainState
from experiments.training import Info, train_once
from experiments.units import axes_of
from jaxprune.kernel_axes import by_path, layer_axes
from jaxprune.sensitivity import Sensitivity, search, sensitivity
from jaxprune.signals.gatherers import collect, signals_read_by
from jaxprune.trees import layer_names

__all__ = ["run"]

_RIVALS = {"uniform": "uniform", "ERK": "erk", "global": "global_budget"}
SEARCHED = "searched"


def run(cfg: ConfigDict, options: Options) -> None:
    """Runs, or goes on with, all seeds of an analysis; then writes the report."""
    asked = sections.sensitivity(cfg)
    criterion = _criterion(asked)
    pattern = {"pattern": build("pattern", asked["pattern"])} if asked["pattern"] else {}
    dense = recipe(cfg, DENSE, None, "config.optimizer")
    preflight.checked(dense.optimizer, cfg, "config.optimizer")
    for sparsity in (max(asked["sparsities"]), 1 - min(asked["keep"])):
        one_shot = jp.schedules.one_shot(sparsity=sparsity)
        method = jp.Method(jp.criteria.magnitude, schedule=one_shot, **pattern)
        preflight.check_cut(method, cfg, "config.sensitivity")
    if options.dry_run:
        size = savings.dense(cfg)
        print(
            f"{cfg.model.name} on {cfg.data.name}: {cfg.steps} updates, seeds {tuple(cfg.seeds)}; then"
        )
        measured = len(size.prunable) * len(asked["sparsities"])
        print(
            f"{measured} networks with one of {len(size.prunable)} layers pruned are measured per seed."
        )
        return
    preflight.check_data(cfg)
    with RunFolder.open(options.workdir, options.config_name, cfg) as folder:
        if folder.done:
            _report(folder)
            return
        started, seeds = time.time(), []
        model = model_of(cfg)
        trainer = Trainer(model, dense.optimizer, augment_of(cfg))
        with Progress(cfg.steps * len(cfg.seeds), "starting") as progress:
            for number, seed in enumerate(cfg.seeds):
                own = Folder(folder.path / f"seed_{seed}")
                info = Info(cfg, options, progress, number * cfg.steps, f"seed {seed}")
                trained = train_once(info, trainer, model, dense, Folder(own.path / DENSE), seed)
                if trained is None:
                    return
                if not own.done:
                    found = _Network(cfg, asked, criterion, trainer, model, dense, own, seed)
                    at = (number + 1) * cfg.steps
                    tell = lambda text, at=at, seed=seed: progress.update(
                        at, f"seed {seed} · {text}"
                    )
                    own.finish(found.analysed(trained, tell))
                seeds.append({"seed": seed, **own.results})
        folder.finish(
            {
                "kind": "sensitivity",
                "config": cfg.to_dict(),
                "paper": cfg.paper.to_dict(),
                "asked": asked,
                "contestants": [SEARCHED, *_RIVALS],
                "sparsities": [1 - keep for keep in asked["keep"]],
                "dense": savings.dense(cfg)._asdict(),
                "seeds": seeds,
                "cost": {
                    "wall_seconds": time.time() - started,
                    "cpu_seconds": time.process_time(),
                },
            }
        )
        _report(folder)


def _report(folder: RunFolder) -> None:
    """Writes the table, the rates and the report of a finished analysis."""
    seeds = folder.results["seeds"]
    _write_csv(folder.path / "sensitivity.csv", seeds)
    write_json(folder.path / "rates.json", {seed["seed"]: seed["rates"] for seed in seeds})
    print(f"Report: {write_report(folder.path)}")


class _Network:
    """The trained network of one seed."""

    def __init__(self, cfg, asked, criterion, trainer, model, dense, folder: Folder, seed: int):
        self.cfg, self.asked, self.criterion, self.trainer = cfg, asked, criterion, trainer
        self.task = tasks(cfg, seed)[0]
        key = jax.random.fold_in(jax.random.key(seed), 0)
        params, rest = fresh_variables(model, self.task, key)
        like = TrainState(params, rest, dense.optimizer.init(params))
        state = last_state(folder.path / DENSE, like)
        self.params, self.rest = state.params, state.rest
        prunable = cfg.prunable or None
        batches = examples(self.task, key, asked["examples"])
        known = gatherers_of(model, self.rest, batches, key, {}, prunable)
        known["key"] = lambda _: key
        self.signals = collect(signals_read_by(criterion), known, self.params)
        size = savings.dense(cfg)
        costs = size.flops if asked["cost"] == "flops" else size.weights
        self.axes = axes_of(cfg)
        self.leaf_costs = {name: float(costs[name]) for name in size.prunable}
        self.costs = _by_layer(self.leaf_costs, self.params, self.axes)
        self.pattern = {"pattern": build("pattern", p)} if (p := asked["pattern"]) else {}

    def analysed(self, trained: Mapping[str, Any], say: Callable[[str], Any]) -> dict[str, Any]:
        """The table, and what each allocation gives at each target."""
        asked, accuracies = self.asked, []

        def loss(params: Any) -> float:
            validation = self.task.validation
            what = "the validation loss with layers pruned"
            value, accuracy = self.trainer.evaluate(params, self.rest, validation, what)
            accuracies.append(accuracy)
            return value

        given = {
            "criterion": self.criterion,
            "axes": self.axes,
            **self.pattern,
            **self.signals,
        }
        tell = lambda doing: {"progress": lambda done: say(f"{done} networks measured, {doing}")}
        options = {"prunable": self.cfg.prunable or None, **tell("one layer pruned")}
        table = sensitivity(loss, self.params, asked["sparsities"], **options, **given)
        whole, of_leaves = accuracies[0], iter(accuracies[1:])
        by_leaf = {
            n: [whole, *(next(of_leaves) for _ in row[1:])] for n, row in table.losses.items()
        }
        points: dict[str, list[dict[str, Any]]] = {label: [] for label in (SEARCHED, *_RIVALS)}
        rates: dict[str, Any] = {}
        for keep in asked["keep"]:
            found, params, masks = search(
                loss,
                self.params,
                table,
                keep=keep,
                costs=self.costs,
                **tell(f"{100 * keep:g} % left"),
                **given,
            )
            rates[f"{keep:g}"] = found.rates
            searched = {"predicted_loss": found.predicted, "validation_loss": found.loss}
            points[SEARCHED].append({**self._tested(params, masks), **searched})
            for name, allocation in _RIVALS.items():
                points[name].append(self._tested(*self._rival(allocation, keep)))
        tolerated = self._tolerated(loss, table, given)
        if tolerated is not None:
            rates["tolerance"] = tolerated["rates"]
        dense = {"test_accuracy": trained["test_accuracy"], "sparsity": 0.0}
        return {
            "points": {DENSE: [dense], **points},
            "rates": rates,
            "tolerated": tolerated,
            "table": {**table._asdict(), "accuracies": by_leaf, "costs": self.costs},
        }

    def _tolerated(self, loss, table: Sensitivity, given) -> dict[str, Any] | None:
        """The cheapest network within the tolerance of accuracy, if one is asked for."""
        if not self.asked["tolerance"]:
            return None
        validation, what = self.task.validation, "the validation loss of a network searched for"

        def error(params: Any) -> float:
            return 1 - self.trainer.evaluate(params, self.rest, validation, what)[1]

        more = {"tolerance": self.asked["tolerance"], "measure": error, "costs": self.costs}
        found, params, masks = search(loss, self.params, table, **more, **given)
        tried = [list(pair) for pair in found.tried]
        return {
            "rates": found.rates,
            "keep": found.keep,
            "tried": tried,
            **self._tested(params, masks),
        }

    def _rival(self, allocation: str, keep: float) -> tuple[Any, Any]:
        inner = getattr(jp.allocation, allocation)()
        method = jp.Method(
            self.criterion,
            schedule=jp.schedules.one_shot(sparsity=1 - keep),
            allocation=jp.allocation.at_cost(inner, self.leaf_costs),
            **self.pattern,
        )
        options = {"prunable": self.cfg.prunable or None, "axes": self.axes}
        return jp.prune(self.params, method, **options, **self.signals)

    def _tested(self, params: Any, masks: Any) -> dict[str, Any]:
        """What is left, and the test set's verdict on it."""
        what = "the test loss of a pruned network"
        _, accuracy = self.trainer.evaluate(params, self.rest, self.task.test, what)
        rows = jp.masks.summary(masks)
        left = sum(self.leaf_costs[row["leaf"]] * row["kept"] / row["weights"] for row in rows)
        return {
            "test_accuracy": accuracy,
            "cost_left": left / sum(self.leaf_costs.values()),
            **savings.of(savings.dense(self.cfg), rows),
        }


def _by_layer(costs: Mapping[str, float], params: Any, axes: Any) -> dict[str, float]:
    """The cost of each layer, from those of leaves; stacked layers share alike."""
    leaves = dict(zip(jp.masks.paths(params), jax.tree.leaves(params), strict=True))
    known = by_path(axes, leaves)
    found = {}
    for path, cost in costs.items():
        layer_shape = [leaves[path].shape[axis] for axis in layer_axes(known[path])]
        names = layer_names(path, layer_shape)
        found.update(dict.fromkeys(names, cost / len(names)))
    return found


def _criterion(asked: Mapping[str, Any]) -> Any:
    spec, where = asked["criterion"], "config.sensitivity.criterion"
    if isinstance(spec, str) and criterion_files.is_file(spec):
        criterion_files.check(spec, where)
        return criterion_files.load(spec, where, known_signals())
    named = part(spec) if isinstance(spec, str) else spec
    check_part("criterion", named, where)
    found = build("criterion", named)
    missing = [name for name in signals_read_by(found) if name not in known_signals()]
    if missing:
        raise UserError(f"{where}: it reads {missing[0]!r}, which exists only while training.")
    return found


def _write_csv(path: Path, seeds: list[dict[str, Any]]) -> None:
    """One row per seed, layer and sparsity."""
    with replacing(path) as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "seed",
                "layer",
                "weights",
                "cost",
                "sparsity",
                "validation_loss",
                "validation_accuracy",
            ]
        )
        for seed in seeds:
            table = seed["table"]
            for layer, row in table["sparsities"].items():
                named = (seed["seed"], layer, table["weights"][layer], table["costs"][layer])
                columns = zip(row, table["losses"][layer], table["accuracies"][layer], strict=True)
                writer.writerows([*named, *values] for values in columns)
