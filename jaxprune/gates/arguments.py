"""Arguments that all gates take: numbers or schedules, one for all leaves or by regular expression."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from jaxprune import checks
from jaxprune.hyperparameters import scheduled
from jaxprune.types import Step

__all__ = ["Strength", "at_step", "check_each", "check_strength", "per_leaf"]

Strength = float | Callable[[Step], Any]
_T = TypeVar("_T")


def check_each(who: str, kind: checks.Kind, **arguments: Any) -> None:
    """Raises `TypeError` unless each argument, or each value of one that is a mapping, is of the kind.

    NaN is a `ValueError`.
    """
    for name, value in arguments.items():
        items_of_mapping = value.items() if isinstance(value, Mapping) else ()
        values = {f"{name}[{key!r}]": item for key, item in items_of_mapping} or {name: value}
        checks.check(who, **{item_name: (item, kind) for item_name, item in values.items()})
        for item_name, item in values.items():
            if checks.NUMBER.fits(item) and math.isnan(item):
                raise ValueError(f"{who}({item_name}=nan): a number is needed, and NaN is none.")


def check_strength(who: str, strength: Any) -> None:
    """Raises `ValueError` unless a strength, or each of a mapping, is a schedule or a number from 0 up."""
    for value in strength.values() if isinstance(strength, Mapping) else (strength,):
        scheduled(who, strength=value)


def at_step(value: Strength, step: Step | None, who: str) -> Any:
    """Returns a number as it is, or the value of a schedule at `step`."""
    if not callable(value):
        return value
    if step is None:
        raise ValueError(f"{who}: its schedule needs step=, the number of updates done.")
    return value(step)


def per_leaf(value: _T | Mapping[str, _T], leaves: Iterable[str], what: str) -> dict[str, _T]:
    """Returns one value per leaf: the same for all, or by regular expressions searched in its path.

    >>> per_leaf({"fc1": 0.2, "fc": 0.5}, {"fc1/kernel": None, "fc2/kernel": None}, "dropout_rate")
    {'fc1/kernel': 0.2, 'fc2/kernel': 0.5}
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(leaves, value)
    for expression in value:
        checks.expression(what, expression)
    values_of_leaves = {
        path: [
            matching_value
            for expression, matching_value in value.items()
            if re.search(expression, path)
        ]
        for path in leaves
    }
    unmatched_patterns = [
        pattern for pattern in value if not any(re.search(pattern, path) for path in leaves)
    ]
    unmatched_paths = [
        path for path, matching_values in values_of_leaves.items() if not matching_values
    ]
    if unmatched_patterns or unmatched_paths:
        fault = (
            f"{unmatched_patterns[0]!r} matches no leaf"
            if unmatched_patterns
            else f"nothing matches {unmatched_paths[0]!r}"
        )
        raise ValueError(
            f"{what}: {fault}; its keys are regular expressions, searched in the paths of the gated leaves, "
            f"of which the first that matches holds: {', '.join(leaves)}."
        )
    return {path: matching_values[0] for path, matching_values in values_of_leaves.items()}
