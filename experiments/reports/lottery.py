"""The report of lottery tickets: accuracies and early stops by level, beside the controls."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.reports import lottery_results, plots
from experiments.reports.kind import Outcome, ReportKind
from experiments.reports.lottery_results import levels, values
from experiments.reports.markdown import count, gap, percent, table

__all__ = ["REPORT", "body", "headline"]


def body(results: Mapping[str, Any]) -> list[str]:
    """Returns the sections of the report.

    Args:
      results: of a run.
    """
    weights_left = [f"{100 * remaining:.2f}" for remaining in levels(results)]
    all_branches = dict.fromkeys(
        branch for level in results["seeds"][0]["levels"] for branch in level["branches"]
    )
    branches = sorted(all_branches, key=lambda branch: branch != "ticket")  # the tickets first
    seed_names = [f"seed {seed['seed']}" for seed in results["seeds"]]

    def table_by_level(head: Sequence[str], row_of_level: Callable[[int], list[str]]) -> str:
        rows = [[remaining, *row_of_level(level)] for level, remaining in enumerate(weights_left)]
        return table(["weights left (%)", *head], rows)

    def table_of_metric(metric: str, format_values: Callable[[list[float]], str]) -> str:
        def row_of_branches(level: int) -> list[str]:
            return [format_values(values(results, branch, metric, level)) for branch in branches]

        return table_by_level(branches, row_of_branches)

    def row_of_gaps(level: int) -> list[str]:
        ticket = values(results, "ticket", "test_final", level)
        others = [
            values(results, branch, "test_final", level) for branch in ("dense", *branches[1:])
        ]
        return [gap(ticket, other) for other in others]

    def row_of_seeds(level: int) -> list[str]:
        accuracies = values(results, "ticket", "test_final", level)
        early_steps = values(results, "ticket", "early_step", level)
        return [
            *(f"{100 * accuracy:.2f}" for accuracy in accuracies),
            *(f"{step:.0f}" for step in early_steps),
        ]

    seed_count = len(seed_names)
    spread_note = (
        f"mean ± std over {seed_count} seeds"
        if seed_count > 1
        else "one seed, so no bound can be given"
    )
    return [
        f"## Test accuracy after training, % ({spread_note})",
        table_of_metric("test_final", percent),
        "## Test accuracy at early stop, %",
        table_of_metric("test_early", percent),
        "## Early-stop iteration (of the lowest validation loss)",
        table_of_metric("early_step", count),
        "## Ticket minus others after training, pp: mean (one-sided 95 % lower bound)",
        table_by_level(["dense", *branches[1:]], row_of_gaps),
        "## Tickets by seed: test accuracy after training (%), early-stop iteration",
        table_by_level([*seed_names, *(f"{name}, iteration" for name in seed_names)], row_of_seeds),
    ]


def headline(results: Mapping[str, Any]) -> Outcome:
    """Returns the accuracy of the tickets at the last level."""
    remaining = levels(results)
    accuracies = values(results, "ticket", "test_final", len(remaining) - 1)
    name = f"ticket at {100 * remaining[-1]:.3g} %"
    return Outcome(name, "", f"{percent(accuracies)} %", "", len(results["seeds"]))


REPORT = ReportKind(body, headline, plots.lottery, lottery_results.values_of_claim)
