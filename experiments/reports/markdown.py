"""Tables and numbers of the reports."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.reports import stats

__all__ = ["cell", "count", "gap", "is_share", "mean_value", "part", "percent", "table", "value"]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars within cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def percent(found: Sequence[float]) -> str:
    """Mean and standard deviation of fractions, as a percentage; empty for no values."""
    return stats.percent(found) if found else ""


def gap(a: Sequence[float], b: Sequence[float]) -> str:
    """Mean of a - b in percentage points, with its one-sided 95 % lower bound in brackets.

    >>> gap([0.9, 0.8], [0.7, 0.6]), gap([0.9], [0.7]), gap([], [])
    ('+20.00 (+20.00)', '+20.00', '')
    """
    if not a or not b:
        return ""
    verdict = stats.exceeds(a, b, 0.0)
    bound = "" if verdict.bounds is None else f" ({100 * verdict.bounds.lower:+.2f})"
    return f"{100 * verdict.mean:+.2f}{bound}"


def part(spec: Mapping[str, Any]) -> str:
    """A part of a config as a call.

    >>> part({"name": "adam", "learning_rate": 0.1})
    'adam(learning_rate=0.1)'
    """
    shown = (
        f"{k}={part(v) if isinstance(v, Mapping) and 'name' in v else v}"
        for k, v in spec.items()
        if k != "name"
    )
    return f"{spec['name']}({', '.join(shown)})"


def is_share(metric: str) -> bool:
    """Returns whether a metric is a fraction, to be shown as a percentage.

    >>> is_share("test_accuracy"), is_share("perplexity")
    (True, False)
    """
    return "accuracy" in metric or metric in ("test_final", "test_early") or "sparsity" in metric


def mean_value(values: Sequence[float], metric: str) -> str:
    """Returns the mean of a metric's values, as a percentage where it is a fraction.

    >>> mean_value([0.5, 0.6], "test_accuracy"), mean_value([12.5], "perplexity")
    ('55.00 %', '12.5')
    """
    mean = stats.mean(values)
    return f"{100 * mean:.2f} %" if is_share(metric) else f"{mean:.4g}"


def count(found: Sequence[float]) -> str:
    """Returns mean and standard deviation of counts, without decimals."""
    if len(found) < 2:
        return f"{found[0]:.0f}" if found else ""
    return f"{stats.mean(found):.0f} ± {stats.std(found):.0f}"


def value(name: str, found: Sequence[float]) -> str:
    """Accuracies and sparsities as percentages, the rest as they are."""
    if "accuracy" in name or "sparsity" in name:
        return f"{stats.percent(found)} %"
    text = f"{stats.mean(found):.6g}"
    return text if len(found) < 2 else f"{text} ± {stats.std(found):.2g}"


def cell(name: str, entry: Any) -> str:
    """Returns an entry of a row of results: a shape as AxB, a float as `value` shows it."""
    if isinstance(entry, list):  # a shape
        return "x".join(map(str, entry))
    return value(name, [entry]) if isinstance(entry, float) else str(entry)
