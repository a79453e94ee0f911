"""The report of training runs: every number of every seed, and the leaves of the first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.reports import plots, stats
from experiments.reports.kind import OpenError, Outcome, ReportKind
from experiments.reports.markdown import cell, percent, table, value

__all__ = ["REPORT", "body", "headline"]


def body(results: Mapping[str, Any]) -> list[str]:
    """Returns the sections of the report.

    Args:
      results: of a run.
    """
    seeds = results["seeds"]
    metrics = dict.fromkeys(
        name
        for seed in seeds
        for name in seed
        if _has(seed, name) and name not in ("seed", "fold", "level")
    )
    rows = [
        [
            _seed_label(seed),
            *(value(metric, [seed[metric]]) if _has(seed, metric) else "" for metric in metrics),
        ]
        for seed in seeds
    ]
    if len(seeds) > 1:
        rows.append(["**mean ± std**", *(_mean_of_seeds(seeds, metric) for metric in metrics)])
    sections = ["## Results", table(["seed", *metrics], rows)]
    first = next((seed for seed in seeds if seed.get("per_leaf")), None)
    if first is not None:
        leaves = first["per_leaf"]
        leaf_rows = [[cell(column, entry) for column, entry in leaf.items()] for leaf in leaves]
        sections += [f"## Leaves of seed {_seed_label(first)}", table(list(leaves[0]), leaf_rows)]
    return sections


def _has(seed: Mapping[str, Any], metric: str) -> bool:
    return isinstance(seed.get(metric), int | float)


def _mean_of_seeds(seeds: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Returns mean and standard deviation of the seeds that have a metric, and how many, if not all."""
    seed_values = [seed[metric] for seed in seeds if _has(seed, metric)]
    count = f" ({len(seed_values)} of {len(seeds)})" if len(seed_values) < len(seeds) else ""
    return value(metric, seed_values) + count


def _seed_label(seed: Mapping[str, Any]) -> str:
    return f"{seed['seed']}, fold {seed['fold']}" if "fold" in seed else str(seed["seed"])


def headline(results: Mapping[str, Any]) -> Outcome:
    """Returns the test accuracy."""
    try:
        accuracies = _values_by_seed(results, "test_accuracy")
    except OpenError as e:
        return Outcome("test accuracy", "", str(e), "", 0)
    return Outcome("test accuracy", "", f"{percent(accuracies)} %", "", len(accuracies))


def _values_by_seed(results: Mapping[str, Any], metric: str) -> list[float]:
    """Returns one value per seed, the mean over its folds, which share most of their examples.

    Raises:
      OpenError: some training has no such number.
    """
    by_seed: dict[int, list[float]] = {}
    for training in results["seeds"]:
        if not _has(training, metric):
            raise OpenError(f"no {metric} of seed {_seed_label(training)}")
        by_seed.setdefault(training["seed"], []).append(training[metric])
    return [stats.mean(of_folds) for of_folds in by_seed.values()]


def _draw_plots(results: Mapping[str, Any], folder: Path) -> list[str]:
    return plots.training(folder)


def _values_of_claim(
    results: Mapping[str, Any], claim: Mapping[str, Any], side: Any
) -> list[float]:
    if side is not None:
        raise OpenError(
            f"a training has one method, so that {side!r} cannot be compared; leave a out, and let b be a "
            "number"
        )
    return _values_by_seed(results, claim["metric"])


REPORT = ReportKind(body, headline, _draw_plots, _values_of_claim, has_dense=False)
