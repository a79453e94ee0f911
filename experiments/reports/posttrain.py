"""The report of pruning after training: perplexities beside the dense model's, errors, cost."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config.fields import DENSE
from experiments.reports import plots, stats
from experiments.reports.kind import OpenError, Outcome, ReportKind
from experiments.reports.markdown import table
from experiments.runs.files import read_sealed

__all__ = ["KERNELS_FILE", "REPORT", "body", "headline"]

KERNELS_FILE = "kernels.json"  # of a run folder: seed -> label -> figures of each kernel

_HEAD = (
    "row",
    "removed, %",
    "perplexity",
    "x dense",
    "excess log-perplexity",
    "error of outputs, held out",
    "damping, most",
    "CPU s",
    "seeds",
)


def body(results: Mapping[str, Any]) -> list[str]:
    """Returns the sections of the report.

    Args:
      results: of a run.
    """
    asked = results["asked"]
    dense_perplexity = results["dense"]["perplexity"]
    lines = [[DENSE, "0.00", f"{dense_perplexity:.2f}", "1.00", "0.000", "", "", "", ""]]
    for label in results["rows"]:
        rows = [seed["rows"][label] for seed in results["seeds"]]
        lines.append(_table_line(label, rows, dense_perplexity))
    return [
        "## Perplexity on the test windows",
        table(_HEAD, lines),
        f"Mean ± standard deviation over seeds, which draw {asked['calibration']} calibration windows of "
        f"{asked['length']} tokens; the {asked['test']} test windows ({results['test_tokens']:,} tokens) are "
        "the same for all. Windows do not overlap, and their first token is not scored. Removed: of the "
        "kernels that are pruned. Error: squared change of a kernel's outputs over their squares on "
        f"{asked['validation']} held-out windows, with the dense network's inputs; the mean over kernels. "
        "CPU seconds are of pruning and recovery, evaluation not counted.",
    ]


def _table_line(label: str, rows: list[dict[str, Any]], dense_perplexity: float) -> list[str]:
    """Returns a row of the table: one label, the means over its rows of all seeds."""
    perplexities = [row["perplexity"] for row in rows]
    excesses = [row["log_perplexity"] - math.log(dense_perplexity) for row in rows]
    held_out_errors = [row["held_out_error"] for row in rows if "held_out_error" in row]
    largest_damping = max(row["largest_damping"] for row in rows)
    return [
        label,
        f"{100 * stats.mean([row['sparsity'] for row in rows]):.2f}",
        _mean_and_std(perplexities, 2),
        f"{stats.mean(perplexities) / dense_perplexity:.2f}",
        _mean_and_std(excesses, 3),
        _mean_and_std(held_out_errors, 4) if held_out_errors else "",
        f"{largest_damping:g}" if largest_damping else "",
        f"{stats.mean([row['cpu_seconds'] for row in rows]):,.0f}",
        str(len(rows)),
    ]


def _mean_and_std(values: list[float], digits: int) -> str:
    text = f"{stats.mean(values):,.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {stats.std(values):,.{digits}f}"


def headline(results: Mapping[str, Any]) -> Outcome:
    """Returns the row with the lowest perplexity."""
    mean_perplexities = {
        label: stats.mean([seed["rows"][label]["perplexity"] for seed in results["seeds"]])
        for label in results["rows"]
    }
    best_label = min(mean_perplexities, key=mean_perplexities.__getitem__)
    best_perplexity = mean_perplexities[best_label]
    ours = f"perplexity {best_perplexity:.2f}, dense {results['dense']['perplexity']:.2f}"
    name = f"{best_label}, best of {len(mean_perplexities)}"
    return Outcome(name, "", ours, "", len(results["seeds"]))


def _values_of_claim(
    results: Mapping[str, Any], claim: Mapping[str, Any], label: str
) -> list[float]:
    metric = claim["metric"]
    if label == DENSE:
        return [results["dense"][metric]] * len(results["seeds"])
    seed_values = [seed["rows"].get(label, {}).get(metric) for seed in results["seeds"]]
    if None in seed_values:
        raise OpenError(f"no {metric} of {label} for every seed")
    return seed_values


def _details(results: Mapping[str, Any]) -> list[str]:
    return [f"- model: {results['asked']['model']}", f"- rows: {', '.join(results['rows'])}"]


def _plots(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws perplexities, and the errors of kernels where their file is there; returns file names."""
    path = folder / KERNELS_FILE
    kernels = read_sealed(path, required=True) if path.exists() else {}
    return plots.posttrain(results, kernels.get(str(results["seeds"][0]["seed"]), {}), folder)


REPORT = ReportKind(
    body, headline, _plots, _values_of_claim, has_dense=False, shown=(), details=_details
)
