"""Claims: what a config says must hold, checked against the results of its run.

`paper.accept` lists them, written down before the run. Each is a dict with a `name`, a `kind`,
what it compares, and optionally `published`, the paper's own words or number, and `against`, what that makes
it worth (or `paper.against`, for all of a run):

    figure     the paper's own number, at its protocol, within the band that all figures have
    shortened  the same by a shorter or another protocol, or a wider margin, as `paper.departures` says
    order      an order or a statement of a paper, without a number of it
    own        a bar of our own, which is the default

Values come one per
seed; `b` is another branch, "dense", or a number. Each is judged by one-sided 95 % bounds: it holds, it is
refuted, or it is open, if the bounds say neither (`experiments.reports.stats`).

    lower_bound     mean(a - b) > bound
    matches         a is no worse than b: mean(a - b) > -margin (default: max(0.001, std of dense))
    beats           a is better than b by d: lower bound > d / 2 and mean >= d; refuted: upper bound < d;
                    of metrics of which less is better, these two and smallest_level turn the sign
                    (`experiments.config.metrics`)
    median_ratio    median of a / b < below; five seeds at least are needed for a bound
    smallest_level  a matches dense at some level with at most `at_most` of the weights; refuted: at none
    at_least        mean(a) >= value
    band            |mean(a) - value| < max(floor, 3 std); floor: 0.003 if none is given; seeds that differ
                    more make the band wider, and its bounds allow for that; with the paper's `std`, 3
                    times the root mean square of both

In lottery runs a claim also has `remaining`, the fraction of weights left, and means the nearest level; `a`
is a branch there ("ticket", "reinit", "dense") and `metric` one of its numbers. In comparisons `a` and `b`
are contestants, `metric` is the test accuracy if it is left out, and a claim has `sparsity`, which means
the nearest point, or `strength`, for gates and penalties (or one by contestant); it stays open if a
training diverged, since seeds left out would favour who lost them. After training (`experiments.posttrain`)
`a` and `b` are rows or "dense", and `metric` is "perplexity" or "log_perplexity". In training runs `a` is
left out, `b` is a number, `metric` is the name of a result, and the mean of a seed's folds is its value.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experiments.config import UserError
from experiments.config.metrics import is_share, lower_is_better
from experiments.config.paper import AGAINST, check_claim
from experiments.reports import stats
from experiments.reports.kind import OpenError, Outcome, ReportKind
from experiments.reports.lottery_results import levels, values
from experiments.reports.markdown import mean_value, table
from jaxprune.wording import counted

__all__ = ["check", "count", "count_table"]


def check(results: Mapping[str, Any], kind: ReportKind) -> list[Outcome]:
    """Checks every claim of a run's `paper.accept`; what cannot be checked comes out open.

    Args:
      results: of a run.
      kind: of its study.
    """
    outcomes = []
    paper = results.get("paper") or {}
    claims: Sequence[Any] = paper.get("accept") or ()
    for index, claim in enumerate(claims):
        given: dict[str, Any] = {} if kind.metric is None else {"metric": kind.metric}
        given["against"] = paper.get("against") or "own"
        if isinstance(claim, Mapping):  # what is None counts as left out
            given |= {name: value for name, value in claim.items() if value is not None}
        try:
            check_claim(given if isinstance(claim, Mapping) else claim, f"paper.accept[{index}]")
            outcome = _CHECKS[given["kind"]](results, given, kind)
        except (OpenError, UserError) as e:
            outcome = Outcome("", "open", str(e), "", _seed_count(results))
        except KeyError as e:
            reason = f"cannot be checked: {e} is unknown or missing in {given}"
            outcome = Outcome("", "open", reason, "", _seed_count(results))
        names = {name: str(given.get(name, "")) for name in ("name", "published", "against")}
        outcomes.append(outcome._replace(**names))
    return outcomes


def _seed_count(results: Mapping[str, Any]) -> int:
    return len({seed["seed"] for seed in results["seeds"]})


def count(outcomes: Iterable[Outcome]) -> str:
    """Returns in words how many claims had each verdict, and how many would by chance alone.

    >>> count([Outcome("a", "holds", "", "", 5), Outcome("b", "open", "", "", 1)])
    'Of 2 claims 1 holds, 0 are refuted, 1 is open; up to 0.1 each may hold or be refuted by chance.'
    """
    verdicts = [outcome.verdict for outcome in outcomes if outcome.verdict]
    holds_count = verdicts.count("holds")
    refuted_text = _number_with_verb(verdicts.count("refuted"), "refuted")
    open_text = _number_with_verb(verdicts.count("open"), "open")
    claims_text = counted(len(verdicts), "claim")
    return (
        f"Of {claims_text} {counted(holds_count, 'holds', 'hold')}, {refuted_text}, "
        f"{open_text}; up to {0.05 * len(verdicts):.1f} each may hold or be refuted by chance."
    )


def count_table(outcomes: Iterable[Outcome]) -> str:
    """Returns a table of how many claims had each verdict, by what they are held against."""
    verdicts = ("holds", "refuted", "open")
    claimed = [outcome for outcome in outcomes if outcome.verdict]
    rows = [
        [
            words,
            *(
                str(
                    sum(
                        (outcome.against, outcome.verdict) == (against, verdict)
                        for outcome in claimed
                    )
                )
                for verdict in verdicts
            ),
        ]
        for against, words in AGAINST.items()
    ]
    return table(["held against", *verdicts], rows)


def _number_with_verb(number: int, adjective: str) -> str:
    return f"{counted(number, 'is', 'are')} {adjective}"


def _check_lower_bound(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> Outcome:
    a, b = _values_of_sides(results, claim, kind)
    return _outcome_of_difference(claim, stats.exceeds(a, b, claim["bound"]))


def _check_matches(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> Outcome:
    a, b = _values_of_sides(results, claim, kind)
    margin = claim.get("margin")
    if margin is None:
        margin = stats.margin_of(_values_of_dense(results, claim, kind))
    return _outcome_of_difference(claim, _by_direction(claim, stats.matches, a, b, margin))


def _by_direction(
    claim: Mapping[str, Any],
    judge: Callable[[Sequence[float], Sequence[float], float], stats.Verdict],
    a: Sequence[float],
    b: Sequence[float],
    threshold: float,
) -> stats.Verdict:
    """Judges whether a is better than b: where less is better, b takes the place of a."""
    return judge(b, a, threshold) if lower_is_better(claim["metric"]) else judge(a, b, threshold)


def _values_of_dense(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> list[float] | None:
    """Returns the dense network's values of a claim's metric, where the run has some."""
    if not kind.has_dense:
        return None
    try:
        return _values_of_side(results, claim, kind, "dense")
    except OpenError:
        return None


def _check_beats(results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind) -> Outcome:
    a, b = _values_of_sides(results, claim, kind)
    verdict = _by_direction(claim, stats.beats, a, b, claim["d"])
    outcome = _outcome_of_difference(claim, verdict)
    mean = f"mean ≥ {_signed(claim['d'], claim)}"
    if lower_is_better(claim["metric"]):
        mean = f"mean ≤ {_signed(-claim['d'], claim)}"
    return outcome._replace(needed=f"{outcome.needed}, {mean}")


def _check_median_ratio(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> Outcome:
    a, b = _values_of_sides(results, claim, kind)
    if not all(b):
        raise OpenError(f"{claim['b']} has zeros to divide by")
    ratios = [numerator / denominator for numerator, denominator in zip(a, b, strict=True)]
    interval = stats.median_bounds(ratios)
    median = stats.median(ratios)
    if interval is None:
        raise OpenError(f"median {median:.3f}; a bound of a median needs five seeds")
    # "Below a threshold" is "above" it with both signs turned.
    verdict = stats.judge(stats.Bounds(-interval.upper, -interval.lower), -claim["below"])
    ours = f"median {median:.3f} [{interval.lower:.3f}, {interval.upper:.3f}]"
    return Outcome("", verdict, ours, f"< {claim['below']}", len(a))


def _check_smallest_level(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> Outcome:
    dense = values(results, "dense", claim["metric"], 0)
    needed = f"≤ {100 * claim['at_most']:.3g} % of weights left"
    if len(dense) < 2:
        raise OpenError("one seed gives no bound")
    verdicts: dict[float, stats.Word] = {}
    for level, remaining in enumerate(levels(results)):
        if branch_values := values(results, claim["a"], claim["metric"], level):
            verdict = _by_direction(
                claim, stats.matches, branch_values, dense, stats.margin_of(dense)
            )
            verdicts[remaining] = verdict.word
    claimed_verdicts = [
        word for remaining, word in verdicts.items() if remaining <= claim["at_most"]
    ]
    if not claimed_verdicts:
        raise OpenError(f"no level of {claim['a']} with so few weights")
    word: stats.Word = "open"
    if "holds" in claimed_verdicts:
        word = "holds"
    elif set(claimed_verdicts) == {"refuted"}:
        word = "refuted"
    matching_levels = [remaining for remaining, word in verdicts.items() if word == "holds"]
    ours = "no level matches dense"
    if matching_levels:
        ours = f"{100 * min(matching_levels):.3g} % of weights left"
    return Outcome("", word, ours, needed, len(dense))


def _check_band(results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind) -> Outcome:
    seed_values = _values_of_side(results, claim, kind, claim.get("a"))
    if len(seed_values) < 2:
        raise OpenError(f"{mean_value(seed_values, claim['metric'])}; one seed gives no bound")
    floor = claim.get("floor", 0.003)
    if "std" in claim:  # the paper's, pooled with ours
        spread = stats.pooled_std(stats.std(seed_values), claim["std"])
        verdict = stats.in_pooled_band(seed_values, claim["value"], floor, 3, claim["std"])
    else:
        spread = stats.std(seed_values)
        verdict = stats.in_band(seed_values, claim["value"], floor, 3)
    half_width = max(floor, 3 * spread)
    scale, unit = _scale_and_unit(claim)
    ours = f"{scale * stats.mean(seed_values):.4g} ± {scale * stats.std(seed_values):.2g}{unit}"
    needed = f"{scale * claim['value']:.4g} ± {scale * half_width:.2g}{unit}"
    return Outcome("", verdict, ours, needed, len(seed_values))


def _check_at_least(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> Outcome:
    seed_values = _values_of_side(results, claim, kind, claim.get("a"))
    if len(seed_values) < 2:
        raise OpenError(f"{mean_value(seed_values, claim['metric'])}; one seed gives no bound")
    interval = stats.bounds(seed_values)
    assert interval is not None
    scale, unit = _scale_and_unit(claim)
    ours = f"{scale * stats.mean(seed_values):.4g} ± {scale * stats.std(seed_values):.2g}"
    ours += f" [{scale * interval.lower:.4g}, {scale * interval.upper:.4g}]{unit}"
    # A value as large as the threshold is enough, so the threshold is the next smaller float.
    verdict = stats.judge(interval, math.nextafter(claim["value"], -math.inf))
    needed = f"≥ {scale * claim['value']:.4g}{unit}"
    return Outcome("", verdict, ours, needed, len(seed_values))


_CHECKS = {
    "at_least": _check_at_least,
    "lower_bound": _check_lower_bound,
    "matches": _check_matches,
    "beats": _check_beats,
    "median_ratio": _check_median_ratio,
    "smallest_level": _check_smallest_level,
    "band": _check_band,
}


def _scale_and_unit(claim: Mapping[str, Any]) -> tuple[int, str]:
    return (100, " %") if is_share(claim["metric"]) else (1, "")


def _values_of_sides(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> tuple[list[float], list[float]]:
    """Returns the values of both sides, one per seed; a number is repeated."""
    a, b = claim.get("a"), claim["b"]
    if isinstance(a, int | float):
        b_values = _values_of_side(results, claim, kind, b)
        return [float(a)] * len(b_values), b_values
    a_values = _values_of_side(results, claim, kind, a)
    if isinstance(b, int | float):
        return a_values, [float(b)] * len(a_values)
    return a_values, _values_of_side(results, claim, kind, b)


def _values_of_side(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind, side: Any
) -> list[float]:
    """Returns the values of one side of a claim, one per seed."""
    seed_values = kind.values(results, claim, side)
    if not all(isinstance(value, int | float) for value in seed_values):
        raise OpenError(f"{claim['metric']} is no number")
    return seed_values


def _outcome_of_difference(claim: Mapping[str, Any], verdict: stats.Verdict) -> Outcome:
    """Returns the outcome in words, of which the numbers are those of a - b."""
    is_turned = claim["kind"] in ("matches", "beats") and lower_is_better(claim["metric"])
    sign = -1 if is_turned else 1
    mean = _signed(sign * verdict.mean, claim)
    if verdict.bounds is None:
        raise OpenError(f"{mean}; one seed gives no bound")
    ends = sorted(sign * bound for bound in verdict.bounds)
    lower, upper = (_signed(bound, claim).removesuffix(" pp") for bound in ends)
    needed = f"{'<' if is_turned else '>'} {_signed(sign * verdict.threshold, claim)}"
    return Outcome("", verdict.word, f"{mean} [{lower}, {upper}]", needed, verdict.n)


def _signed(value: float, claim: Mapping[str, Any]) -> str:
    value += 0.0  # no minus before a zero
    return f"{100 * value:+.2f} pp" if is_share(claim["metric"]) else f"{value:+.4g}"
