"""What `experiments.sensitivity` runs: dense trainings, the analysis, the search, and its test."""

import csv
import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError, build, part, user_files
from experiments.config.fields import DENSE
from experiments.metrics import savings
from experiments.reports.report import write_report
from experiments.reports.sensitivity import REPORT
from experiments.runs.files import replacing, write_json
from experiments.runs.folder import Folder, RunFolder
from experiments.runs.options import Options
from experiments.runs.progress import Progress
from experiments.studies.one_training import Info, train_once
from experiments.training.loop import last_state
from experiments.training.setup import Setup
from experiments.training.setup import setup as setup_of
from experiments.training.task import Batches, fresh_variables, tasks
from experiments.training.trainer import Trainer, TrainState
from experiments.ways import checks, dense
from experiments.ways.oneshot import examples, gatherers_of, known_signals, signal_shapes
from experiments.ways.recipe import Recipe
from jaxprune.kernel_axes import by_path, layer_axes
from jaxprune.sensitivity import Sensitivity, search, sensitivity
from jaxprune.signals.by_keyword import collect, signals_read_by
from jaxprune.trees import layer_names
from jaxprune.wording import counted

__all__ = ["run"]

_RIVALS = {"uniform": "uniform", "ERK": "erk", "global": "global_budget"}
SEARCHED = "searched"


def run(cfg: ConfigDict, section: dict[str, Any], options: Options) -> None:
    """Runs, or goes on with, all seeds of an analysis; then writes the report.

    Args:
      cfg: the config.
      section: the fields of its section.
      options: of the command line.
    """
    criterion = _criterion(section)
    setup = setup_of(cfg)
    recipe = dense.recipe(setup)
    checks.checked(recipe.optimizer, setup, "config.optimizer")
    example_count = min(section["examples"], cfg.data.get("batch_size", 128))
    where = "config.sensitivity.criterion"
    signals = signal_shapes(setup, signals_read_by(criterion), example_count, where)
    spec = section["criterion"]
    file = spec if isinstance(spec, str) and user_files.is_file(spec) else None
    for sparsity in (max(section["sparsities"]), 1 - min(section["budget"])):
        one_shot = jp.schedules.one_shot(sparsity=sparsity)
        method = jp.Method(criterion, schedule=one_shot, **_pattern(section))
        checks.check_cut(method, setup, "config.sensitivity", signals, file)
    size = savings.dense(setup)
    if options.dry_run:
        print(_planned(cfg, section, size))
        return
    checks.check_data(cfg)
    with RunFolder.open(
        options.workdir, options.config_name, cfg, "sensitivity", options.seeds_from
    ) as folder:
        if folder.done:
            _report(folder)
            return
        results = []
        trainer = Trainer(setup.model, recipe.optimizer, setup.augment)
        with Progress(cfg.steps * len(cfg.seeds), "starting") as progress:
            for seed_index, seed in enumerate(cfg.seeds):
                own_folder = Folder(folder.path / f"seed_{seed}")
                info = Info(setup, options, progress, seed_index * cfg.steps, f"seed {seed}")
                dense_folder = Folder(own_folder.path / DENSE)
                trained = train_once(info, trainer, recipe, dense_folder, seed)
                if trained is None:
                    return
                if not own_folder.done:
                    network = _Network(
                        setup, section, criterion, trainer, recipe, size, own_folder, seed
                    )
                    done = (seed_index + 1) * cfg.steps
                    tell = functools.partial(_tell, progress, done, seed)
                    own_folder.finish(network.analysed(trained, tell))
                results.append({"seed": seed, **own_folder.results})
        folder.finish(
            {
                "kind": "sensitivity",
                "config": cfg.to_dict(),
                "paper": cfg.paper.to_dict(),
                "asked": section,
                "contestants": [SEARCHED, *_RIVALS],
                "sparsities": [1 - budget for budget in section["budget"]],
                "dense": size._asdict(),
                "seeds": results,
            }
        )
        _report(folder)


def _planned(cfg: ConfigDict, section: Mapping[str, Any], size: savings.Dense) -> str:
    """What a dry run prints."""
    layer_count = len(size.prunable)
    measured = layer_count * len(section["sparsities"])
    return (
        f"{cfg.model.name} on {cfg.data.name}: {cfg.steps} updates, seeds {tuple(cfg.seeds)}; then\n"
        f"{counted(measured, 'network with', 'networks with')} one of {counted(layer_count, 'layer')} pruned "
        f"{'is' if measured == 1 else 'are'} measured per seed."
    )


def _tell(progress: Progress, done: int, seed: int, text: str) -> None:
    progress.update(done, f"seed {seed} · {text}")


def _pattern(section: Mapping[str, Any]) -> dict[str, Any]:
    """The pattern of a method, as a keyword, where one is asked for."""
    return {"pattern": build("pattern", section["pattern"])} if section["pattern"] else {}


def _report(folder: RunFolder) -> None:
    """Writes the table, the rates and the report of a finished analysis."""
    seeds = folder.results["seeds"]
    _write_csv(folder.path / "sensitivity.csv", seeds)
    write_json(folder.path / "rates.json", {seed["seed"]: seed["rates"] for seed in seeds})
    print(f"Report: {write_report(folder.path, REPORT)}")


class _Network:
    """The trained network of one seed."""

    def __init__(
        self,
        setup: Setup,
        section: Mapping[str, Any],
        criterion: Any,
        trainer: Trainer,
        recipe: Recipe,
        size: savings.Dense,
        folder: Folder,
        seed: int,
    ):
        self.setup = setup
        self.section = section
        self.criterion = criterion
        self.trainer = trainer
        self.size = size
        self.task = tasks(setup.cfg, seed)[0]
        key = jax.random.fold_in(jax.random.key(seed), 0)
        params, rest = fresh_variables(setup.model, self.task, key)
        like = TrainState(params, rest, recipe.optimizer.init(params))
        state = last_state(folder.path / DENSE, like)
        self.params = state.params
        self.rest = state.rest
        batches = examples(self.task, key, section["examples"])
        gatherers = gatherers_of(setup.model, self.rest, batches, key, {}, setup.prunable)
        gatherers["key"] = lambda _: key
        self.signals = collect(signals_read_by(criterion), gatherers, self.params)
        costs = size.flops if section["cost"] == "flops" else size.weights
        self.leaf_costs = {name: float(costs[name]) for name in size.prunable}
        self.layer_costs = _by_layer(self.leaf_costs, self.params, setup.axes)
        self.pattern = _pattern(section)

    @property
    def _validation(self) -> Batches:
        assert self.task.validation is not None  # the section's check has seen to it
        return self.task.validation

    def analysed(self, trained: Mapping[str, Any], tell: Callable[[str], Any]) -> dict[str, Any]:
        """Returns the table, and what each allocation gives at each target.

        Args:
          trained: results of the dense training.
          tell: is told what is being done.
        """
        section = self.section
        accuracies: list[float] = []  # of all networks, in the order of their evaluations
        accuracies_of_layers: dict[str, list[float]] = defaultdict(list)

        def loss(params: Any) -> float:
            what = "the validation loss with layers pruned"
            value, accuracy = self.trainer.evaluate(params, self.rest, self._validation, what)
            accuracies.append(accuracy)
            return value

        def keep_accuracy(layer: str, _: float) -> None:
            accuracies_of_layers[layer].append(accuracies[-1])

        def telling(doing: str) -> Callable[[Any], None]:
            return lambda done: tell(f"{counted(done, 'network')} measured, {doing}")

        given = {
            "criterion": self.criterion,
            "axes": self.setup.axes,
            **self.pattern,
            **self.signals,
        }
        table = sensitivity(
            loss,
            self.params,
            section["sparsities"],
            prunable=self.setup.prunable,
            progress=telling("one layer pruned"),
            measured=keep_accuracy,
            **given,
        )
        dense_accuracy = accuracies[0]
        by_layer = {layer: [dense_accuracy, *accuracies_of_layers[layer]] for layer in table.losses}
        points: dict[str, list[dict[str, Any]]] = {label: [] for label in (SEARCHED, *_RIVALS)}
        rates: dict[str, Any] = {}
        for budget in section["budget"]:
            result, params, masks = search(
                loss,
                self.params,
                table,
                budget=budget,
                costs=self.layer_costs,
                progress=telling(f"{100 * budget:g} % left"),
                **given,
            )
            rates[f"{budget:g}"] = result.rates
            validated = {"predicted_loss": result.predicted, "validation_loss": result.loss}
            points[SEARCHED].append({**self._tested(params, masks), **validated})
            for name, allocation in _RIVALS.items():
                points[name].append(self._tested(*self._rival(allocation, budget)))
        tolerated = self._tolerated(loss, table, given)
        if tolerated is not None:
            rates["tolerance"] = tolerated["rates"]
        dense_point = {"test_accuracy": trained["test_accuracy"], "sparsity": 0.0}
        return {
            "points": {DENSE: [dense_point], **points},
            "rates": rates,
            "tolerated": tolerated,
            "table": {**table._asdict(), "accuracies": by_layer, "costs": self.layer_costs},
        }

    def _tolerated(
        self, loss: Callable[[Any], float], table: Sensitivity, given: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """The cheapest network within the tolerance of accuracy, if one is asked for."""
        if not self.section["tolerance"]:
            return None
        validation = self._validation
        what = "the validation loss of a network searched for"

        def error(params: Any) -> float:
            return 1 - self.trainer.evaluate(params, self.rest, validation, what)[1]

        result, params, masks = search(
            loss,
            self.params,
            table,
            tolerance=self.section["tolerance"],
            measure=error,
            costs=self.layer_costs,
            **given,
        )
        return {
            "rates": result.rates,
            "tried": [list(pair) for pair in result.tried],
            **self._tested(params, masks),
        }

    def _rival(self, allocation: str, budget: float) -> tuple[Any, Any]:
        """The parameters and masks of another allocation at the same cost."""
        inner = getattr(jp.allocation, allocation)()
        method = jp.Method(
            self.criterion,
            schedule=jp.schedules.one_shot(sparsity=1 - budget),
            allocation=jp.allocation.at_cost(inner, self.leaf_costs),
            **self.pattern,
        )
        options = {"prunable": self.setup.prunable, "axes": self.setup.axes}
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
            **savings.summarize(self.size, rows),
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


def _criterion(section: Mapping[str, Any]) -> Any:
    spec = section["criterion"]
    where = "config.sensitivity.criterion"
    if isinstance(spec, str) and user_files.is_file(spec):
        return user_files.load(spec, where, known_signals())
    criterion = build("criterion", part(spec) if isinstance(spec, str) else spec)
    missing = [name for name in signals_read_by(criterion) if name not in known_signals()]
    if missing:
        raise UserError(f"{where}: it reads {missing[0]!r}, which exists only while training.")
    return criterion


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
