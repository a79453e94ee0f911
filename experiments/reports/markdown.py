"""Tables and numbers of the reports."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.reports import stats

__all__ = ["gap", "part", "percent", "table"]


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
