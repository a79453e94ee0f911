"""The report of a ticket's branches: a row per branch, a column per level; stability; likeness of seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.reports import lottery_results, plots, stats
from experiments.reports.kind import Outcome, ReportKind
from experiments.reports.lottery_results import levels, values
from experiments.reports.markdown import gap, percent, table

__all__ = ["REPORT", "body", "headline"]


def body(results: Mapping[str, Any]) -> list[str]:
    """Returns the sections of the report.

    Args:
      results: of a run.
    """
    level_indices = _levels_with_branches(results)
    names = list(
        dict.fromkeys(
            name
            for level_index in level_indices
            for name in results["seeds"][0]["levels"][level_index]["branches"]
            if name != "dense"
        )
    )
    head = ["", *(f"{100 * levels(results)[level]:.3g} % left" for level in level_indices)]

    def table_of(cell_of: Callable[[str, int], str], with_dense: bool = True) -> str:
        rows = [["dense", *(cell_of("dense", level) for level in level_indices)]] * with_dense
        rows += [[name, *(cell_of(name, level) for level in level_indices)] for name in names]
        return table(head, [row for row in rows if any(row[1:])])

    def accuracies(metric: str) -> Callable[[str, int], str]:
        return lambda name, level: percent(values(results, name, metric, level))

    def minus_first(name: str, level: int) -> str:
        first = values(results, names[0], "test_final", level)
        return "" if name == names[0] else gap(values(results, name, "test_final", level), first)

    seed_count = len(results["seeds"])
    sections = []
    if results["branches"]:
        rows = list(results["branches"].items())
        sections += ["## Branches", table(["branch", "what it is"], rows)]
    sections += [
        f"## Test accuracy after training, % (mean ± std over {seed_count} seeds)",
        table_of(accuracies("test_final")),
        f"## Minus {names[0]}, pp: mean (one-sided 95 % lower bound)",
        table_of(minus_first),
        "## Test accuracy at early stop, %",
        table_of(accuracies("test_early")),
    ]
    if any(values(results, name, "untrained_accuracy", level_indices[-1]) for name in names):
        sections += [
            "## Test accuracy before training, %",
            table_of(accuracies("untrained_accuracy"), with_dense=False),
        ]
    if any(seed["lines"] for seed in results["seeds"]):
        sections += [
            "## Instability, pp: largest error between two copies less the mean of theirs",
            table_of(accuracies("instability"), with_dense=False),
        ]
    return [*sections, *_overlaps(results), *_failures(results)]


def _failures(results: Mapping[str, Any]) -> list[str]:
    """Returns the list of the trainings that diverged; a branch is without values where one of them did."""
    failures = {
        f"- {copy['failed']}"
        for seed in results["seeds"]
        for level in seed["levels"]
        for branch in level["branches"].values()
        for copy in (branch if isinstance(branch, list) else [])
        if "failed" in copy
    }
    return ["## Trainings that diverged", "\n".join(sorted(failures))] if failures else []


def _levels_with_branches(results: Mapping[str, Any]) -> list[int]:
    """Returns the indices of the levels from which branches were trained; without branches, of all."""
    all_levels = results["seeds"][0]["levels"]
    indices = [
        index
        for index, level in enumerate(all_levels)
        if any(name in results["branches"] for name in level["branches"])
    ]
    return indices or list(range(len(all_levels)))


def _overlaps(results: Mapping[str, Any]) -> Sequence[str]:
    """Returns the table of how alike the tickets of different seeds are, where there are several."""
    rows = [
        [
            name,
            f"{100 * levels(results)[row['level']]:.3g}",
            f"{100 * row['jaccard']:.2f}",
            f"{100 * row['expected']:.2f}",
            str(row["pairs"]),
        ]
        for name, of_levels in results["overlaps"].items()
        for row in of_levels
    ]
    if not rows:
        return []
    head = ["ticket", "weights left, %", "kept by both of those kept by either, %", "by chance, %"]
    return ["## Masks of different seeds", table([*head, "pairs"], rows)]


def headline(results: Mapping[str, Any]) -> Outcome:
    """Returns the accuracy of the first ticket at the last level with branches."""
    level = _levels_with_branches(results)[-1]
    name = next(iter(results["tickets"]))
    accuracies = values(results, name, "test_final", level)
    remaining = 100 * levels(results)[level]
    best = {
        branch: stats.mean(values(results, branch, "test_final", level))
        for branch in results["branches"]
        if values(results, branch, "test_final", level)
    }
    ours = f"{percent(accuracies)} %"
    if best:
        best_name = max(best, key=best.__getitem__)
        ours += f"; best branch {best_name}, {100 * best[best_name]:.2f} %"
    return Outcome(f"{name} at {remaining:.3g} %", "", ours, "", len(results["seeds"]))


REPORT = ReportKind(body, headline, plots.branches, lottery_results.values_of_claim)
