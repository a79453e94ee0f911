"""Hyperparameters that are numbers, or schedules of optax: functions of the step."""

import math
from collections.abc import Callable
from typing import Any

import jax

from jaxprune import checks
from jaxprune.calls import is_traced, makes
from jaxprune.types import Step

__all__ = ["Scheduled", "scheduled"]


Scheduled = jax.Array | float | Callable[[Any], Any]


def scheduled(who: str, **named: Scheduled) -> Callable[[Step], Any]:
    """A number, which is checked, or a schedule, as a function of the step.

    >>> scheduled("l1", strength=0.5)(7)
    0.5
    """
    ((name, value),) = named.items()
    checks.check(who, **{name: (value, _SCHEDULED)})
    if callable(value):
        return value
    if not is_traced(value) and not 0 <= float(value) < math.inf:
        raise ValueError(f"{who}({name}={value!r}): a finite number, 0 or above, is needed.")
    return lambda step: value


def _is_scheduled(value: Any) -> bool:
    schedule = checks.is_function(value) and makes(value) is None and checks.takes(value, 1)
    return schedule or is_traced(value) or checks.NUMBER.fits(value)


_SCHEDULED = checks.Kind(
    "a number or a schedule of optax, called",
    _is_scheduled,
    lambda value: (
        checks.NUMBER.remedy(value)
        if isinstance(value, str)
        else "such as optax.linear_schedule(0.0, 1e-3, transition_steps=1_000)"
    ),
)
