"""Paired statistics over seeds, and the rule by which a claim holds, is refuted, or stays open.

The rule, fixed before any run: seeds are paired, and each claim is judged by the one-sided 95 % bounds of
what it says. It holds if the lower bound is above the threshold, it is refuted if the upper bound is below
it, and it is open if neither is so: more seeds may tell. "a matches b": mean(a - b) is above minus the
margin, the larger of 0.1 percentage points and the standard deviation of the dense network. "a beats b by
d": the lower bound is above d / 2 and the mean is at least d; refuted if the upper bound is below d.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import special, stats

__all__ = [
    "Bounds",
    "Verdict",
    "Word",
    "beats",
    "bounds",
    "exceeds",
    "in_band",
    "in_pooled_band",
    "judge",
    "lower_bound",
    "margin_of",
    "matches",
    "mean",
    "median",
    "median_bounds",
    "percent",
    "pooled_std",
    "std",
    "t_quantile",
]

MARGIN = 0.001  # a tenth of a percentage point of accuracy
CONFIDENCE = 0.95  # of each bound
CHAOTIC = 0.01  # standard deviation of a share from which on its median is shown

Word = Literal["holds", "refuted", "open"]


class Bounds(NamedTuple):
    """One-sided bounds, each at 95 %."""

    lower: float
    upper: float


class Verdict(NamedTuple):
    """The mean difference, its bounds (from two seeds on), and the word for the threshold they give."""

    word: Word
    mean: float
    bounds: Bounds | None
    threshold: float
    n: int


def mean(values: Sequence[float]) -> float:
    """Returns the mean.

    >>> mean([1.0, 2.0])
    1.5
    """
    return float(np.mean(np.asarray(values, float)))


def std(values: Sequence[float]) -> float:
    """Returns the standard deviation over n - 1; NaN for a single value.

    >>> std([1.0, 3.0]) == 2**0.5
    True
    """
    return float(np.std(np.asarray(values, float), ddof=1)) if len(values) > 1 else math.nan


def median(values: Sequence[float]) -> float:
    """Returns the median.

    >>> median([1.0, 2.0, 9.0])
    2.0
    """
    return float(np.median(np.asarray(values, float)))


def bounds(values: Sequence[float]) -> Bounds | None:
    r"""Returns one-sided bounds $\bar x \pm t_{0.95, n-1} s / \sqrt n$ of the mean; `None` below two values.

    >>> [round(bound, 5) for bound in bounds([0.1, 0.2, 0.3])]
    [0.03141, 0.36859]
    """
    n = len(values)
    if n < 2:
        return None
    half_width = t_quantile(CONFIDENCE, n - 1) * std(values) / math.sqrt(n)
    return Bounds(mean(values) - half_width, mean(values) + half_width)


def lower_bound(differences: Sequence[float]) -> float | None:
    """Returns the lower of `bounds`.

    >>> round(lower_bound([0.1, 0.2, 0.3]), 5)
    0.03141
    """
    interval = bounds(differences)
    return None if interval is None else interval.lower


def median_bounds(values: Sequence[float]) -> Bounds | None:
    """Returns one-sided bounds of the median by order statistics; `None` for less than five values.

    Each value lies below the median with probability one half, whatever the distribution.

    >>> median_bounds([3.0, 1.0, 2.0, 5.0, 4.0])
    Bounds(lower=1.0, upper=5.0)
    """
    n = len(values)
    ascending = sorted(values)
    most_below = int(stats.binom.ppf(CONFIDENCE, n, 0.5))  # so many lie below the median at most
    if most_below >= n:
        return None
    return Bounds(ascending[n - 1 - most_below], ascending[most_below])


def judge(interval: Bounds | None, threshold: float) -> Word:
    """Returns whether a value with these bounds is above a threshold: it holds, is refuted, or is open.

    >>> judge(Bounds(1.0, 2.0), 0.5), judge(Bounds(1.0, 2.0), 3.0), judge(Bounds(1.0, 2.0), 1.5)
    ('holds', 'refuted', 'open')
    """
    if interval is None:
        return "open"
    if interval.lower > threshold:
        return "holds"
    return "refuted" if interval.upper < threshold else "open"


def exceeds(a: Sequence[float], b: Sequence[float], threshold: float) -> Verdict:
    """Judges whether mean(a - b) is above a threshold."""
    differences = _paired_differences(a, b)
    interval = bounds(differences)
    word = judge(interval, threshold)
    return Verdict(word, mean(differences), interval, threshold, len(differences))


def in_band(values: Sequence[float], value: float, floor: float, deviations: float) -> Word:
    r"""Judges whether the mean is within `max(floor, deviations x standard deviation)` of a value.

    A width that comes from the same seeds is no fixed one: with $t = \sqrt n (\bar x - v) / s$, which has a
    noncentral t distribution, the mean is within $k$ standard deviations if $|t|$ is below the 5 % quantile
    at the noncentrality $k \sqrt n$, and beyond them if it is above the 95 % quantile.

    >>> in_band([0.50, 0.51, 0.49, 0.50, 0.50], 0.505, floor=0.02, deviations=3.0)
    'holds'
    """
    n = len(values)
    interval = bounds(values)
    if interval is None:
        return "open"
    # Both sides of the band as claims "is above 0": mean > value - floor, and mean < value + floor.
    above_lower_edge = judge(
        Bounds(interval.lower - value + floor, interval.upper - value + floor), 0.0
    )
    below_upper_edge = judge(
        Bounds(value + floor - interval.upper, value + floor - interval.lower), 0.0
    )
    by_floor: Word = "holds" if above_lower_edge == below_upper_edge == "holds" else "open"
    if "refuted" in (above_lower_edge, below_upper_edge):
        by_floor = "refuted"
    if not std(values):
        return by_floor
    t_statistic = math.sqrt(n) * abs(mean(values) - value) / std(values)
    noncentrality = deviations * math.sqrt(n)
    by_spread: Word = "open"
    if t_statistic < stats.nct.ppf(1 - CONFIDENCE, n - 1, noncentrality):
        by_spread = "holds"
    elif t_statistic > stats.nct.ppf(CONFIDENCE, n - 1, noncentrality):
        by_spread = "refuted"
    if "holds" in (by_floor, by_spread):  # the wider of the two is what counts
        return "holds"
    return "refuted" if by_floor == by_spread == "refuted" else "open"


def pooled_std(ours: float, published: float) -> float:
    """Returns the root mean square of two standard deviations.

    >>> pooled_std(1.0, 7.0)
    5.0
    """
    return math.sqrt((ours**2 + published**2) / 2)


def in_pooled_band(
    values: Sequence[float], value: float, floor: float, deviations: float, published_std: float
) -> Word:
    r"""Judges whether the mean is within `max(floor, deviations x pooled standard deviation)` of a value.

    Half of such a width is known, the paper's, and half comes from the seeds. These leave open standard
    deviations $\sigma = s \sqrt{(n - 1) / \chi^2_{n-1}}$ and means $\bar x + z \sigma / \sqrt n$: the claim
    holds if it is true of 95 % of them, and is refuted if it is true of 5 %. Seeds that are equal leave one.

    >>> in_pooled_band([0.97, 0.97, 0.97], 0.98, floor=0.003, deviations=3.0, published_std=0.01)
    'holds'
    """
    n = len(values)
    if n < 2:
        return "open"
    probabilities = (np.arange(1000) + 0.5) / 1000
    stds = std(values) * np.sqrt((n - 1) / stats.chi2.ppf(probabilities, n - 1))
    half_widths = np.maximum(floor, deviations * np.sqrt((stds**2 + published_std**2) / 2))
    difference = mean(values) - value
    with np.errstate(divide="ignore", invalid="ignore"):  # of equal seeds
        below_upper_edge = stats.norm.cdf((half_widths - difference) / (stds / math.sqrt(n)))
        below_lower_edge = stats.norm.cdf((-half_widths - difference) / (stds / math.sqrt(n)))
    inside = float(np.mean(below_upper_edge - below_lower_edge))
    if inside > CONFIDENCE:
        return "holds"
    return "refuted" if inside < 1 - CONFIDENCE else "open"


def margin_of(dense: Sequence[float] | None) -> float:
    """Returns how much worse a network may be and still match: 0.001, or the spread of dense if larger."""
    return max(MARGIN, std(dense)) if dense is not None and len(dense) > 1 else MARGIN


def matches(a: Sequence[float], b: Sequence[float], margin: float) -> Verdict:
    """Judges whether a is no worse than b by more than a margin."""
    return exceeds(a, b, -margin)


def beats(a: Sequence[float], b: Sequence[float], d: float) -> Verdict:
    """Judges whether a is better than b by d."""
    verdict = exceeds(a, b, d / 2)
    if verdict.bounds is None:
        return verdict
    word: Word = "open"
    if verdict.bounds.upper < d:
        word = "refuted"
    elif verdict.bounds.lower > d / 2 and verdict.mean >= d:
        word = "holds"
    return verdict._replace(word=word)


def percent(values: Sequence[float], digits: int = 2) -> str:
    """Returns fractions as a percentage: mean ± standard deviation, the median too where seeds differ much.

    >>> percent([0.975, 0.978]), percent([0.975]), percent([0.97, 0.96, 0.7])
    ('97.65 ± 0.21', '97.50', '87.67 ± 15.31 (median 96.00)')
    """
    text = f"{100 * mean(values):.{digits}f}"
    if len(values) < 2:
        return text
    is_chaotic = len(values) > 2 and std(values) > CHAOTIC
    median_text = f" (median {100 * median(values):.{digits}f})" if is_chaotic else ""
    return f"{text} ± {100 * std(values):.{digits}f}{median_text}"


def t_quantile(p: float, df: int) -> float:
    """Returns the p-quantile of Student's t distribution with df degrees of freedom.

    >>> round(t_quantile(0.95, 4), 4), round(t_quantile(0.975, 10), 4)
    (2.1318, 2.2281)
    """
    if not 0 < p < 1 or df < 1:
        raise ValueError(f"t_quantile(p={p}, df={df}): 0 < p < 1 and df >= 1 are needed.")
    return float(special.stdtrit(df, p))


def _paired_differences(a: Sequence[float], b: Sequence[float]) -> list[float]:
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired; one per seed is needed.")
    return [float(minuend) - float(subtrahend) for minuend, subtrahend in zip(a, b, strict=True)]
