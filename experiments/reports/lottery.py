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
    left = [f"{100 * remaining:.2f}" for remaining in levels(results)]
    found = dict.fromkeys(b for level in results["seeds"][0]["levels"] for b in level["branches"])
    branches = sorted(found, key=lambda branch: branch != "ticket")  # the tickets first
    seeds = [f"seed {seed['seed']}" for seed in results["seeds"]]

    def by_level(head: Sequence[str], row: Callable[[int], list[str]]) -> str:
        rows = [[remaining, *row(level)] for level, remaining in enumerate(left)]
        return table(["weights left (%)", *head], rows)

    def at(branch: str, metric: str, level: int) -> list[float]:
        return values(results, branch, metric, level)

    def each(metric: str, show: Callable[[list[float]], str]) -> str:
        return by_level(branches, lambda level: [show(at(b, metric, level)) for b in branches])

    def gaps(level: int) -> list[str]:
        ticket = at("ticket", "test_final", level)
        return [gap(ticket, at(b, "test_final", level)) for b in ("dense", *branches[1:])]

    def single(level: int) -> list[str]:
        final, early = at("ticket", "test_final", level), at("ticket", "early_step", level)
        return [*(f"{100 * x:.2f}" for x in final), *(f"{x:.0f}" for x in early)]

    n = len(seeds)
    counted = f"mean ± std over {n} seeds" if n > 1 else "one seed, so no bound can be given"
    return [
        f"## Test accuracy after training, % ({counted})",
        each("test_final", percent),
        "## Test accuracy at early stop, %",
        each("test_early", percent),
        "## Early-stop iteration (of the lowest validation loss)",
        each("early_step", count),
        "## Ticket minus others after training, pp: mean (one-sided 95 % lower bound)",
        by_level(["dense", *branches[1:]], gaps),
        "## Tickets by seed: test accuracy after training (%), early-stop iteration",
        by_level([*seeds, *(f"{seed}, iteration" for seed in seeds)], single),
    ]


def headline(results: Mapping[str, Any]) -> Outcome:
    """Returns the accuracy of the tickets at the last level."""
    remaining = levels(results)
    last = values(results, "ticket", "test_final", len(remaining) - 1)
    name = f"ticket at {100 * remaining[-1]:.3g} %"
    return Outcome(name, "", f"{percent(last)} %", "", len(results["seeds"]))


REPORT = ReportKind(body, headline, plots.lottery, lottery_results.claimed)
