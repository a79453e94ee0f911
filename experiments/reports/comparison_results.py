"""Reading the results of a comparison: contestants x sparsities, one value per seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config.claim_sides import nearest
from experiments.reports.kind import OpenError
from experiments.reports.markdown import mean_value

__all__ = [
    "drop_missing",
    "drop_unpaired",
    "entries",
    "finished_values",
    "labels",
    "nearest_point",
    "point_names",
    "strengths",
    "values",
    "values_of_claim",
]


def labels(results: Mapping[str, Any]) -> list[str]:
    """Returns the labels of all contestants, the dense baseline first."""
    return ["dense", *results["contestants"]]


def strengths(results: Mapping[str, Any], label: str) -> list[float]:
    """Returns the strengths of a contestant that has some instead of sparsities; else nothing."""
    return list((results.get("strengths") or {}).get(label, ()))


def point_names(results: Mapping[str, Any], label: str) -> list[str]:
    """Returns the sparsity or strength that was asked for at each point of a contestant, in words.

    >>> point_names({"sparsities": [0.5], "strengths": {"L1": [1e-4, 1e-3]}}, "L1")
    ['strength 0.0001', 'strength 0.001']
    """
    if own_strengths := strengths(results, label):
        return [f"strength {strength:g}" for strength in own_strengths]
    return [f"{100 * sparsity:g} %" for sparsity in results["sparsities"]]


def entries(results: Mapping[str, Any], label: str, point: int) -> list[dict[str, Any]]:
    """Returns each seed's entry at the point of that index; the dense baseline has but one point."""
    point_index = 0 if label == "dense" else point
    return [seed["points"][label][point_index] for seed in results["seeds"]]


def values(
    results: Mapping[str, Any], label: str, point: int, metric: str = "test_accuracy"
) -> list[float | None]:
    """Returns one value per seed, `None` where the training diverged."""
    return [entry.get(metric) for entry in entries(results, label, point)]


def drop_missing(seed_values: Sequence[float | None]) -> list[float]:
    """Returns the values of the seeds that have one.

    >>> drop_missing([1.0, None])
    [1.0]
    """
    return [value for value in seed_values if value is not None]


def finished_values(
    results: Mapping[str, Any], label: str, point: int, metric: str = "test_accuracy"
) -> list[float]:
    """Returns a metric's values at a point, of the seeds that have one."""
    return drop_missing(values(results, label, point, metric))


def drop_unpaired(
    a: Sequence[float | None], b: Sequence[float | None]
) -> tuple[list[float], list[float]]:
    """Returns the values of the seeds that have one on both sides.

    >>> drop_unpaired([1.0, None, 3.0], [1.5, 2.5, None])
    ([1.0], [1.5])
    """
    pairs = [
        (left, right)
        for left, right in zip(a, b, strict=True)
        if left is not None and right is not None
    ]
    return [left for left, _ in pairs], [right for _, right in pairs]


def nearest_point(results: Mapping[str, Any], sparsity: float) -> int | None:
    """Returns the index of the point nearest to a sparsity; `None` if none is near.

    >>> nearest_point({"sparsities": [0.5, 0.9]}, 0.895), nearest_point({"sparsities": [0.5, 0.9]}, 0.7)
    (1, None)
    """
    return nearest([1 - point_sparsity for point_sparsity in results["sparsities"]], 1 - sparsity)


def values_of_claim(
    results: Mapping[str, Any], claim: Mapping[str, Any], label: str
) -> list[float]:
    """Returns the values of a contestant at the point that a claim means.

    Args:
      results: of a comparison.
      claim: its `metric`, and `sparsity` or `strength` unless the side is dense.
      label: of the contestant.

    Raises:
      OpenError: there is no such point, or not every seed has such a value.
    """
    metric = claim["metric"]
    point = 0 if label == "dense" else _point_of_claim(results, claim, label)
    if not any(metric in entry or "failed" in entry for entry in entries(results, label, point)):
        raise OpenError(f"these results have no {metric} of {label}")
    seed_values = values(results, label, point, metric)
    finished_values = drop_missing(seed_values)
    if len(finished_values) < len(seed_values):
        reason = f"{label} has {len(finished_values)} of {len(seed_values)} seeds"
        if finished_values:
            reason += f", at {mean_value(finished_values, metric)} in the mean"
        raise OpenError(reason)
    return finished_values


def _point_of_claim(results: Mapping[str, Any], claim: Mapping[str, Any], label: str) -> int:
    trained_strengths = strengths(results, label)
    if trained_strengths:
        asked = claim["strength"]
        strength = asked[label] if isinstance(asked, Mapping) else asked
        if strength not in trained_strengths:
            raise OpenError(f"{label} was not trained at strength {strength:g}")
        return trained_strengths.index(strength)
    point = nearest_point(results, claim["sparsity"])
    if point is None:
        raise OpenError(f"no point near {100 * claim['sparsity']:g} % of weights removed")
    return point
