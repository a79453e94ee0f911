"""Tables and numbers of the reports."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.config.metrics import is_share
from experiments.reports import stats

__all__ = ["cell", "count", "gap", "mean_value", "part", "percent", "table", "value"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; bars within cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines
    )


def percent(fractions: Sequence[float]) -> str:
    """Returns mean and standard deviation of fractions as a percentage; empty for no values."""
    return stats.percent(fractions) if fractions else ""


def gap(a: Sequence[float], b: Sequence[float]) -> str:
    """Returns mean(a - b) in percentage points, with its one-sided 95 % lower bound in brackets.

    >>> gap([0.9, 0.8], [0.7, 0.6]), gap([0.9], [0.7]), gap([], [])
    ('+20.00 (+20.00)', '+20.00', '')
    """
    if not a or not b:
        return ""
    verdict = stats.exceeds(a, b, 0.0)
    bound = "" if verdict.bounds is None else f" ({100 * verdict.bounds.lower:+.2f})"
    return f"{100 * verdict.mean:+.2f}{bound}"


def part(spec: Mapping[str, Any]) -> str:
    """Returns a part of a config, written as a call.

    >>> part({"name": "adam", "learning_rate": 0.1})
    'adam(learning_rate=0.1)'
    """
    arguments = (
        f"{name}={part(entry) if isinstance(entry, Mapping) and 'name' in entry else entry}"
        for name, entry in spec.items()
        if name != "name"
    )
    return f"{spec['name']}({', '.join(arguments)})"


def mean_value(values: Sequence[float], metric: str) -> str:
    """Returns the mean of a metric's values, as a percentage where it is a fraction.

    >>> mean_value([0.5, 0.6], "test_accuracy"), mean_value([12.5], "perplexity")
    ('55.00 %', '12.5')
    """
    mean = stats.mean(values)
    return f"{100 * mean:.2f} %" if is_share(metric) else f"{mean:.4g}"


def count(counts: Sequence[float]) -> str:
    """Returns mean and standard deviation of counts, without decimals."""
    if len(counts) < 2:
        return f"{counts[0]:.0f}" if counts else ""
    return f"{stats.mean(counts):.0f} ± {stats.std(counts):.0f}"


def value(metric: str, values: Sequence[float]) -> str:
    """Returns mean and standard deviation of a metric, in per cent where it is a fraction.

    >>> value("explored", [0.5]), value("steps", [12.0, 14.0])
    ('50.00 %', '13 ± 1.4')
    """
    if is_share(metric):
        return f"{stats.percent(values)} %"
    text = f"{stats.mean(values):.6g}"
    return text if len(values) < 2 else f"{text} ± {stats.std(values):.2g}"


def cell(column: str, entry: Any) -> str:
    """Returns an entry of a row of results: a shape as AxB, a float as `value` shows it."""
    if isinstance(entry, list):  # a shape
        return "x".join(map(str, entry))
    return value(column, [entry]) if isinstance(entry, float) else str(entry)
