"""Reading the results of lottery tickets: levels x branches, one value per seed."""

from collections.abc import Mapping
from typing import Any

from experiments.config.claim_sides import nearest
from experiments.reports import stats
from experiments.reports.kind import OpenError

__all__ = ["levels", "values", "values_of_claim"]


def levels(results: Mapping[str, Any]) -> list[float]:
    """Returns the fraction of weights left at each level that all seeds have reached."""
    levels_by_seed = [seed["levels"] for seed in results["seeds"]]
    return [
        stats.mean([level["remaining"] for level in same_level])
        for same_level in zip(*levels_by_seed, strict=False)
    ]


def values(results: Mapping[str, Any], branch: str, metric: str, level: int) -> list[float]:
    """Returns one value per seed, the mean over the draws of a branch; nothing if any seed has none."""
    seed_means = []
    for seed in results["seeds"]:
        # The ticket of level 0 is the dense network, if there is only one.
        level_index = 0 if branch == "dense" else level
        branches = seed["levels"][level_index]["branches"]
        entry = branches.get(branch, branches.get("ticket") if branch == "dense" else None)
        draws = entry if isinstance(entry, list) else [entry]
        if (
            any(not isinstance((draw or {}).get(metric), int | float) for draw in draws)
            or not draws
        ):
            return []
        seed_means.append(stats.mean([draw[metric] for draw in draws]))
    return seed_means


def values_of_claim(results: Mapping[str, Any], claim: Mapping[str, Any], side: Any) -> list[float]:
    """Returns the values of a branch at the level that a claim means.

    Args:
      results: of a run.
      claim: its `metric`, and `remaining` unless the side is dense.
      side: "ticket", "dense", or a control.

    Raises:
      OpenError: there is no such level, or the branch has no such value.
    """
    level = 0 if side == "dense" else _nearest_level(results, claim["remaining"])
    seed_values = values(results, side, claim["metric"], level)
    if not seed_values:
        remaining = 100 * levels(results)[level]
        raise OpenError(f"no {claim['metric']} of {side} at {remaining:.1f} %")
    return seed_values


def _nearest_level(results: Mapping[str, Any], remaining: float) -> int:
    level = nearest(levels(results), remaining)
    if level is None:
        raise OpenError(f"no level near {100 * remaining:.3g} % of weights left")
    return level
