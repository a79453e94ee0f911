"""The report of training runs: every number of every seed, and the leaves of the first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.reports import plots
from experiments.reports.kind import Outcome, ReportKind
from experiments.reports.markdown import cell, percent, table, value

__all__ = ["REPORT", "body", "headline"]


def body(results: Mapping[str, Any]) -> list[str]:
    """Returns the sections of the report.

    Args:
      results: of a run.
    """
    seeds = results["seeds"]
    metrics = [
        name
        for name, entry in seeds[0].items()
        if isinstance(entry, int | float) and name not in ("seed", "fold", "level")
    ]
    rows = [
        [_seed_label(seed), *(value(metric, [seed[metric]]) for metric in metrics)]
        for seed in seeds
    ]
    if len(seeds) > 1:
        means = (value(metric, [seed[metric] for seed in seeds]) for metric in metrics)
        rows.append(["**mean ± std**", *means])
    sections = ["## Results", table(["seed", *metrics], rows)]
    leaves = seeds[0].get("per_leaf")
    if leaves:
        leaf_rows = [[cell(column, entry) for column, entry in leaf.items()] for leaf in leaves]
        sections += [
            f"## Leaves of seed {_seed_label(seeds[0])}",
            table(list(leaves[0]), leaf_rows),
        ]
    return sections


def _seed_label(seed: Mapping[str, Any]) -> str:
    return f"{seed['seed']}, fold {seed['fold']}" if "fold" in seed else str(seed["seed"])


def headline(results: Mapping[str, Any]) -> Outcome:
    """Returns the test accuracy."""
    accuracies = [seed["test_accuracy"] for seed in results["seeds"]]
    return Outcome("test accuracy", "", f"{percent(accuracies)} %", "", len(accuracies))


def _draw_plots(results: Mapping[str, Any], folder: Path) -> list[str]:
    return plots.training(folder)


def _values_of_claim(
    results: Mapping[str, Any], claim: Mapping[str, Any], side: Any
) -> list[float]:
    return [seed[claim["metric"]] for seed in results["seeds"]]


REPORT = ReportKind(body, headline, _draw_plots, _values_of_claim, has_dense=False)
