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
    names = [
        k
        for k, v in seeds[0].items()
        if isinstance(v, int | float) and k not in ("seed", "fold", "level")
    ]
    label = lambda s: f"{s['seed']}, fold {s['fold']}" if "fold" in s else str(s["seed"])
    rows = [[label(s), *(value(name, [s[name]]) for name in names)] for s in seeds]
    if len(seeds) > 1:
        rows.append(["**mean ± std**", *(value(k, [s[k] for s in seeds]) for k in names)])
    parts = ["## Results", table(["seed", *names], rows)]
    leaves = seeds[0].get("per_leaf")
    if leaves:
        shown = [[cell(column, entry) for column, entry in leaf.items()] for leaf in leaves]
        parts += [f"## Leaves of seed {label(seeds[0])}", table(list(leaves[0]), shown)]
    return parts


def headline(results: Mapping[str, Any]) -> Outcome:
    """Returns the test accuracy."""
    accuracies = [seed["test_accuracy"] for seed in results["seeds"]]
    return Outcome("test accuracy", "", f"{percent(accuracies)} %", "", len(accuracies))


def _plots(results: Mapping[str, Any], folder: Path) -> list[str]:
    return plots.training(folder)


def _claimed(results: Mapping[str, Any], claim: Mapping[str, Any], side: Any) -> list[float]:
    return [seed[claim["metric"]] for seed in results["seeds"]]


REPORT = ReportKind(body, headline, _plots, _claimed, has_dense=False)
