"""Reading the results of lottery tickets: levels x branches, one value per seed."""

import math
from collections.abc import Mapping
from typing import Any

from experiments.reports import comparison_results, stats
from experiments.reports.kind import OpenError

__all__ = ["claimed", "levels", "values"]


def levels(results: Mapping[str, Any]) -> list[float]:
    """The fraction of weights left at each level that all seeds have reached."""
    runs = [seed["levels"] for seed in results["seeds"]]
    return [stats.mean([level["remaining"] for level in same]) for same in zip(*runs, strict=False)]


def values(results: Mapping[str, Any], branch: str, metric: str, level: int) -> list[float]:
    """One value per seed, the mean over several draws of a branch; empty if any seed has none."""
    found = []
    for seed in results["seeds"]:
        at = 0 if branch == "dense" else level
        draws = seed["levels"][at]["branches"].get("ticket" if branch == "dense" else branch)
        draws = draws if isinstance(draws, list) else [draws]
        if any(draw is None or draw.get(metric) is None for draw in draws) or not draws:
            return []
        found.append(stats.mean([draw[metric] for draw in draws]))
    return found


def claimed(results: Mapping[str, Any], claim: Mapping[str, Any], side: Any) -> list[float]:
    """Returns the values of a branch at the level that a claim means.

    Args:
      results: of a run.
      claim: its `metric`, and `remaining` unless the side is dense.
      side: "ticket", "dense", or a control.

    Raises:
      OpenError: there is no such level, or the branch has no such value.
    """
    level = 0 if side == "dense" else _level(results, claim["remaining"])
    there = values(results, side, claim["metric"], level)
    if not there:
        remaining = 100 * levels(results)[level]
        raise OpenError(f"no {claim['metric']} of {side} at {remaining:.1f} %")
    return there


def _level(results: Mapping[str, Any], remaining: float) -> int:
    distance = [abs(math.log(left / remaining)) for left in levels(results)]
    level = min(range(len(distance)), key=distance.__getitem__, default=None)
    if level is None or distance[level] > math.log(comparison_results.NEAR):
        raise OpenError(f"no level near {100 * remaining:.3g} % of weights left")
    return level
