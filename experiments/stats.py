"""Paired statistics over seeds, and the rule by which one result matches or beats another.

The rule, fixed before any run: seeds are paired; "a matches b" when the one-sided 95 % lower bound
of mean(a - b) is above minus the margin, the larger of 0.1 percentage points and b's standard
deviation; "a beats b by d" when that bound is above d / 2 and the mean is at least d.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = [
    "Verdict",
    "beats",
    "exceeds",
    "lower_bound",
    "matches",
    "mean",
    "percent",
    "std",
    "t_quantile",
]

MARGIN = 0.001  # a tenth of a percentage point of accuracy


class Verdict(NamedTuple):
    """A mean difference and, from two seeds on, its lower bound against a threshold."""

    passed: bool | None  # None: too few seeds to say
    mean: float
    bound: float | None
    threshold: float
    n: int


def mean(values: Sequence[float]) -> float:
    """The mean.

    >>> mean([1.0, 2.0])
    1.5
    """
    return float(np.mean(np.asarray(values, float)))


def std(values: Sequence[float]) -> float:
    """The standard deviation over n - 1; NaN for a single value.

    >>> std([1.0, 3.0]) == 2**0.5
    True
    """
    return float(np.std(np.asarray(values, float), ddof=1)) if len(values) > 1 else math.nan


def lower_bound(differences: Sequence[float], confidence: float = 0.95) -> float | None:
    r"""One-sided bound $\bar d - t_{c, n-1} s / \sqrt n$ of the mean; `None` for less than two.

    >>> round(lower_bound([0.1, 0.2, 0.3]), 5)
    0.03141
    """
    n = len(differences)
    if n < 2:
        return None
    return mean(differences) - t_quantile(confidence, n - 1) * std(differences) / math.sqrt(n)


def exceeds(a: Sequence[float], b: Sequence[float], threshold: float) -> Verdict:
    """Whether the lower bound of mean(a - b) is above a threshold."""
    differences = _paired(a, b)
    bound = lower_bound(differences)
    passed = None if bound is None else bound > threshold
    return Verdict(passed, mean(differences), bound, threshold, len(differences))


def matches(a: Sequence[float], b: Sequence[float], margin: float | None = None) -> Verdict:
    """Whether a is no worse than b by more than a margin.

    Args:
      a: one value per seed.
      b: the same seeds' values of what it is compared with.
      margin: by default the larger of 0.001 and the standard deviation of b.
    """
    if margin is None:
        margin = max(MARGIN, std(b)) if len(b) > 1 else MARGIN
    return exceeds(a, b, -margin)


def beats(a: Sequence[float], b: Sequence[float], d: float) -> Verdict:
    """Whether a is better than b by d: mean(a - b) >= d and its lower bound above d / 2."""
    verdict = exceeds(a, b, d / 2)
    if verdict.passed is None:
        return verdict
    return verdict._replace(passed=verdict.passed and verdict.mean >= d)


def percent(values: Sequence[float], digits: int = 2) -> str:
    """Fractions as a percentage: mean ± standard deviation.

    >>> percent([0.975, 0.978]), percent([0.975])
    ('97.65 ± 0.21', '97.50')
    """
    text = f"{100 * mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {100 * std(values):.{digits}f}"


def t_quantile(p: float, df: int) -> float:
    """The p-quantile of Student's t distribution, by bisection of its distribution function.

    >>> round(t_quantile(0.95, 4), 4), round(t_quantile(0.975, 10), 4)
    (2.1318, 2.2281)
    """
    if not 0 < p < 1 or df < 1:
        raise ValueError(f"t_quantile(p={p}, df={df}): 0 < p < 1 and df >= 1 are needed.")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while _t_cdf(high, df) < p:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _t_cdf(middle, df) < p else (low, middle)
    return high


def _t_cdf(t: float, df: int) -> float:
    """P(T <= t) for t >= 0 by the finite series (Abramowitz & Stegun, 26.7.3 and 26.7.4)."""
    theta = math.atan2(t, math.sqrt(df))
    cos2 = math.cos(theta) ** 2
    odd = df % 2
    term, total = (math.cos(theta), math.cos(theta)) if odd else (1.0, 1.0)
    for k in range(3 if odd else 2, df, 2):
        term *= cos2 * (k - 1) / k
        total += term
    if odd:
        inside = 2 / math.pi * (theta + (math.sin(theta) * total if df > 1 else 0.0))
    else:
        inside = math.sin(theta) * total
    return (1 + inside) / 2


def _paired(a: Sequence[float], b: Sequence[float]) -> list[float]:
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired; one per seed is needed.")
    return [float(x) - float(y) for x, y in zip(a, b, strict=True)]
