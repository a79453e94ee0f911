"""The report of pruning after training: perplexities beside the dense model's, errors, cost."""

import math
from collections.abc import Mapping
from typing import Any

from experiments.config.fields import DENSE
from experiments.reports import plots, stats
from experiments.reports.kind import OpenError, Outcome, ReportKind
from experiments.reports.markdown import table

__all__ = ["REPORT", "body", "headline"]

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
    """Sections of the report.

    Args:
      results: of a run.
    """
    asked, dense = results["asked"], results["dense"]["perplexity"]
    lines = [[DENSE, "0.00", f"{dense:.2f}", "1.00", "0.000", "", "", "", ""]]
    for label in results["rows"]:
        rows = [seed["rows"][label] for seed in results["seeds"]]
        lines.append(_line(label, rows, dense))
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


def _line(label: str, rows: list[dict[str, Any]], dense: float) -> list[str]:
    perplexities = [row["perplexity"] for row in rows]
    excess = [row["log_perplexity"] - math.log(dense) for row in rows]
    held = [
        stats.mean([kernel["held_out_error"] for kernel in row["kernels"]])
        for row in rows
        if all("held_out_error" in kernel for kernel in row["kernels"])
    ]
    damp = max(kernel["damp"] for row in rows for kernel in row["kernels"])
    return [
        label,
        f"{100 * stats.mean([row['sparsity'] for row in rows]):.2f}",
        _spread(perplexities, 2),
        f"{stats.mean(perplexities) / dense:.2f}",
        _spread(excess, 3),
        _spread(held, 4) if held else "",
        f"{damp:g}" if damp else "",
        f"{stats.mean([row['cpu_seconds'] for row in rows]):,.0f}",
        str(len(rows)),
    ]


def _spread(values: list[float], digits: int) -> str:
    text = f"{stats.mean(values):,.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {stats.std(values):,.{digits}f}"


def headline(results: Mapping[str, Any]) -> Outcome:
    """The row with the lowest perplexity."""
    mean = {
        label: stats.mean([seed["rows"][label]["perplexity"] for seed in results["seeds"]])
        for label in results["rows"]
    }
    best = min(mean, key=mean.__getitem__)
    ours = f"perplexity {mean[best]:.2f}, dense {results['dense']['perplexity']:.2f}"
    return Outcome(f"{best}, best of {len(mean)}", "", ours, "", len(results["seeds"]))


def _claimed(results: Mapping[str, Any], claim: Mapping[str, Any], label: str) -> list[float]:
    metric = claim["metric"]
    if label == DENSE:
        return [results["dense"][metric]] * len(results["seeds"])
    by_seed = [seed["rows"].get(label, {}).get(metric) for seed in results["seeds"]]
    if None in by_seed:
        raise OpenError(f"no {metric} of {label} for every seed")
    return by_seed


def _details(results: Mapping[str, Any]) -> list[str]:
    return [f"- model: {results['asked']['model']}", f"- rows: {', '.join(results['rows'])}"]


REPORT = ReportKind(
    body, headline, plots.posttrain, _claimed, has_dense=False, shown=(), details=_details
)
