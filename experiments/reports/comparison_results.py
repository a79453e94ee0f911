"""Reading the results of a comparison: contestants x sparsities, one value per seed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reports.kind import OpenError
from experiments.reports.markdown import mean_value

__all__ = [
    "NEAR",
    "asked",
    "both",
    "claimed",
    "entries",
    "finished",
    "labels",
    "nearest",
    "strengths",
    "values",
]

NEAR = 1.15  # weights left that differ by more than this factor are not those that are meant


def labels(results: Mapping[str, Any]) -> list[str]:
    """The contestants, the dense baseline first."""
    return ["dense", *results["contestants"]]


def strengths(results: Mapping[str, Any], label: str) -> list[float]:
    """The strengths of a contestant that has some instead of sparsities."""
    return list((results.get("strengths") or {}).get(label, ()))


def asked(results: Mapping[str, Any], label: str) -> list[str]:
    """What a contestant was asked for at each of its points, in words.

    >>> asked({"sparsities": [0.5], "strengths": {"L1": [1e-4, 1e-3]}}, "L1")
    ['strength 0.0001', 'strength 0.001']
    """
    if found := strengths(results, label):
        return [f"strength {value:g}" for value in found]
    return [f"{100 * sparsity:g} %" for sparsity in results["sparsities"]]


def entries(results: Mapping[str, Any], label: str, point: int) -> list[dict[str, Any]]:
    """What each seed found at a contestant's point; the dense baseline has but one."""
    at = 0 if label == "dense" else point
    return [seed["points"][label][at] for seed in results["seeds"]]


def values(
    results: Mapping[str, Any], label: str, point: int, metric: str = "test_accuracy"
) -> list[float | None]:
    """One value per seed, `None` where the training diverged."""
    return [entry.get(metric) for entry in entries(results, label, point)]


def finished(found: Sequence[float | None]) -> list[float]:
    """The values of the seeds that have one."""
    return [value for value in found if value is not None]


def both(a: Sequence[float | None], b: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """The values of the seeds that have one on both sides.

    >>> both([1.0, None, 3.0], [1.5, 2.5, None])
    ([1.0], [1.5])
    """
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def nearest(results: Mapping[str, Any], sparsity: float) -> int | None:
    """The point nearest to a sparsity; `None` if none is near.

    >>> nearest({"sparsities": [0.5, 0.9]}, 0.895), nearest({"sparsities": [0.5, 0.9]}, 0.7)
    (1, None)
    """
    distance = [abs(math.log((1 - s) / (1 - sparsity))) for s in results["sparsities"]]
    point = min(range(len(distance)), key=distance.__getitem__)
    return point if distance[point] <= math.log(NEAR) else None


def claimed(results: Mapping[str, Any], claim: Mapping[str, Any], label: str) -> list[float]:
    """Returns the values of a contestant at the point that a claim means.

    Args:
      results: of a comparison.
      claim: its `metric`, and `sparsity` or `strength` unless the side is dense.
      label: of the contestant.

    Raises:
      OpenError: there is no such point, or not every seed has such a value.
    """
    point = 0 if label == "dense" else _point(results, claim, label)
    if not any(claim["metric"] in e or "failed" in e for e in entries(results, label, point)):
        raise OpenError(f"these results have no {claim['metric']} of {label}")
    found = values(results, label, point, claim["metric"])
    there = finished(found)
    if len(there) < len(found):
        lost = f"{label} has {len(there)} of {len(found)} seeds"
        raise OpenError(
            f"{lost}, at {mean_value(there, claim['metric'])} in the mean" if there else lost
        )
    return there


def _point(results: Mapping[str, Any], claim: Mapping[str, Any], label: str) -> int:
    known = strengths(results, label)
    if known:
        given = claim["strength"]
        strength = given[label] if isinstance(given, Mapping) else given
        if strength not in known:
            raise OpenError(f"{label} was not trained at strength {strength:g}")
        return known.index(strength)
    point = nearest(results, claim["sparsity"])
    if point is None:
        raise OpenError(f"no point near {100 * claim['sparsity']:g} % of weights removed")
    return point
