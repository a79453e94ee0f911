"""Claims: what a config says must hold, checked against the results of its run.

`paper.accept` lists them, written down before the run. Each is a dict with a `name`, a `kind`,
what it compares, and optionally `published`, the paper's own words or number. Values come one per
seed; `b` is another branch, "dense", or a number. Each is judged by one-sided 95 % bounds: it holds, it is
refuted, or it is open, if the bounds say neither (`experiments.reports.stats`).

    lower_bound     mean(a - b) > bound
    matches         a is no worse than b: mean(a - b) > -margin (default: max(0.001, std of dense))
    beats           a is better than b by d: lower bound > d / 2 and mean >= d; refuted: upper bound < d
    median_ratio    median of a / b < below; five seeds at least are needed for a bound
    smallest_level  a matches dense at some level with at most `at_most` of the weights; refuted: at none
    at_least        mean(a) >= value
    band            |mean(a) - value| < max(floor, 3 std); floor: 0.003 if none is given; seeds that differ
                    more make the band wider, and its bounds allow for that

In lottery runs a claim also has `remaining`, the fraction of weights left, and means the nearest level; `a`
is a branch there ("ticket", "reinit", "dense") and `metric` one of its numbers. In comparisons `a` and `b`
are contestants, `metric` is the test accuracy if it is left out, and a claim has `sparsity`, which means
the nearest point, or `strength`, for gates and penalties (or one by contestant); it stays open if a
training diverged, since seeds left out would favour who lost them. After training (`experiments.posttrain`)
`a` and `b` are rows or "dense", and `metric` is "perplexity" or "log_perplexity". In training runs `a` is
left out and `metric` is the name of a result.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.reports import stats
from experiments.reports.kind import OpenError, Outcome, ReportKind
from experiments.reports.lottery_results import levels, values
from experiments.reports.markdown import is_share, mean_value

__all__ = ["check", "count"]


def check(results: Mapping[str, Any], kind: ReportKind) -> list[Outcome]:
    """Checks every claim of a run's `paper.accept`; what cannot be checked comes out open.

    Args:
      results: of a run.
      kind: of its study.
    """
    outcomes = []
    for claim in (results.get("paper") or {}).get("accept") or ():
        if kind.metric is not None:
            claim = {"metric": kind.metric, **claim}
        try:
            outcome = _KINDS[claim["kind"]](results, claim, kind)
        except OpenError as e:
            outcome = Outcome("", "open", str(e), "", len(results["seeds"]))
        except KeyError as e:
            reason = f"cannot be checked: {e} is unknown or missing in {dict(claim)}"
            outcome = Outcome("", "open", reason, "", len(results["seeds"]))
        name, published = claim.get("name", ""), str(claim.get("published", ""))
        outcomes.append(outcome._replace(name=name, published=published))
    return outcomes


def count(outcomes: Iterable[Outcome]) -> str:
    """How many claims came to what, and how many would by chance alone.

    >>> count([Outcome("a", "holds", "", "", 5), Outcome("b", "open", "", "", 1)])
    'Of 2 claims 1 holds, 0 are refuted, 1 is open; up to 0.1 each may hold or be refuted by chance.'
    """
    words = [outcome.verdict for outcome in outcomes if outcome.verdict]
    held, refuted, undecided = (words.count(word) for word in ("holds", "refuted", "open"))
    be = lambda n, word: f"{n} {'is' if n == 1 else 'are'} {word}"
    return (
        f"Of {len(words)} claims {held} {'holds' if held == 1 else 'hold'}, {be(refuted, 'refuted')}, "
        f"{be(undecided, 'open')}; up to {0.05 * len(words):.1f} each may hold or be refuted by chance."
    )


def _lower_bound(results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind) -> Outcome:
    a, b = _sides(results, claim, kind)
    return _difference(claim, stats.exceeds(a, b, claim["bound"]))


def _matches(results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind) -> Outcome:
    a, b = _sides(results, claim, kind)
    given = claim.get("margin")
    margin = stats.margin_of(_dense(results, claim, kind)) if given is None else given
    return _difference(claim, stats.matches(a, b, margin))


def _dense(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> list[float] | None:
    """The dense network's values of a claim's metric, where the run has some."""
    if not kind.has_dense:
        return None
    try:
        return _side(results, claim, kind, "dense")
    except OpenError:
        return None


def _beats(results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind) -> Outcome:
    a, b = _sides(results, claim, kind)
    outcome = _difference(claim, stats.beats(a, b, claim["d"]))
    return outcome._replace(needed=f"{outcome.needed}, mean ≥ {_signed(claim['d'], claim)}")


def _median_ratio(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> Outcome:
    a, b = _sides(results, claim, kind)
    if not all(b):
        raise OpenError(f"{claim['b']} has zeros to divide by")
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    found, middle = stats.median_bounds(ratios), stats.median(ratios)
    if found is None:
        raise OpenError(f"median {middle:.3f}; a bound of a median needs five seeds")
    verdict = stats.judged(stats.Bounds(-found.upper, -found.lower), -claim["below"])
    ours = f"median {middle:.3f} [{found.lower:.3f}, {found.upper:.3f}]"
    return Outcome("", verdict, ours, f"< {claim['below']}", len(a))


def _smallest_level(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> Outcome:
    dense = values(results, "dense", claim["metric"], 0)
    needed = f"≤ {100 * claim['at_most']:.3g} % of weights left"
    if len(dense) < 2:
        raise OpenError("one seed gives no bound")
    words: dict[float, stats.Word] = {}
    for level, remaining in enumerate(levels(results)):
        if ours := values(results, claim["a"], claim["metric"], level):
            words[remaining] = stats.matches(ours, dense, stats.margin_of(dense)).word
    small = [word for remaining, word in words.items() if remaining <= claim["at_most"]]
    if not small:
        raise OpenError(f"no level of {claim['a']} with so few weights")
    verdict: stats.Word = "open"
    if "holds" in small:
        verdict = "holds"
    elif set(small) == {"refuted"}:
        verdict = "refuted"
    matching = [remaining for remaining, word in words.items() if word == "holds"]
    text = f"{100 * min(matching):.3g} % of weights left" if matching else "no level matches dense"
    return Outcome("", verdict, text, needed, len(dense))


def _band(results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind) -> Outcome:
    ours = _side(results, claim, kind, claim.get("a"))
    if len(ours) < 2:
        raise OpenError(f"{mean_value(ours, claim['metric'])}; one seed gives no bound")
    spread = stats.std(ours)
    if "std" in claim:  # the paper's, pooled with ours
        spread = math.sqrt((spread**2 + claim["std"] ** 2) / 2)
    floor = claim.get("floor", 0.003)
    width = max(floor, 3 * spread)
    pooled = spread / stats.std(ours) if stats.std(ours) else 1.0
    verdict = stats.in_band(ours, claim["value"], floor, 3 * pooled)
    scale, unit = (100, " %") if is_share(claim["metric"]) else (1, "")
    text = f"{scale * stats.mean(ours):.4g} ± {scale * stats.std(ours):.2g}{unit}"
    needed = f"{scale * claim['value']:.4g} ± {scale * width:.2g}{unit}"
    return Outcome("", verdict, text, needed, len(ours))


def _at_least(results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind) -> Outcome:
    ours = _side(results, claim, kind, claim.get("a"))
    if len(ours) < 2:
        raise OpenError(f"{mean_value(ours, claim['metric'])}; one seed gives no bound")
    found = stats.bounds(ours)
    assert found is not None
    scale, unit = (100, " %") if is_share(claim["metric"]) else (1, "")
    text = f"{scale * stats.mean(ours):.4g} ± {scale * stats.std(ours):.2g}"
    text += f" [{scale * found.lower:.4g}, {scale * found.upper:.4g}]{unit}"
    verdict = stats.judged(found, math.nextafter(claim["value"], -math.inf))  # as large is enough
    return Outcome("", verdict, text, f"≥ {scale * claim['value']:.4g}{unit}", len(ours))


_KINDS = {
    "at_least": _at_least,
    "lower_bound": _lower_bound,
    "matches": _matches,
    "beats": _beats,
    "median_ratio": _median_ratio,
    "smallest_level": _smallest_level,
    "band": _band,
}


def _sides(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind
) -> tuple[list[float], list[float]]:
    return _side(results, claim, kind, claim.get("a")), _side(results, claim, kind, claim["b"])


def _side(
    results: Mapping[str, Any], claim: Mapping[str, Any], kind: ReportKind, side: Any
) -> list[float]:
    """The values that a claim compares, one per seed."""
    if isinstance(side, int | float):
        return [float(side)] * len(results["seeds"])
    return kind.values(results, claim, side)


def _difference(claim: Mapping[str, Any], verdict: stats.Verdict) -> Outcome:
    if verdict.bounds is None:
        raise OpenError(f"{_signed(verdict.mean, claim)}; one seed gives no bound")
    lower, upper = (_signed(bound, claim).removesuffix(" pp") for bound in verdict.bounds)
    ours = f"{_signed(verdict.mean, claim)} [{lower}, {upper}]"
    needed = f"> {_signed(verdict.threshold, claim)}"
    return Outcome("", verdict.word, ours, needed, verdict.n)


def _signed(value: float, claim: Mapping[str, Any]) -> str:
    return f"{100 * value:+.2f} pp" if is_share(claim["metric"]) else f"{value:+.4g}"
