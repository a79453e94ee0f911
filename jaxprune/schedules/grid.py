"""The steps at which masks change, and what a schedule asks of its numbers."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxprune.types import Step

_MOST_STEPS = 2**31 - 1
REMOVES_ALL = 1 - 0.5e-7  # from here on a fraction of seven decimals is 1


def is_on_grid(begin: int, end: int, every: int) -> Callable[[Step], Any]:
    """Returns step -> whether masks change: every so many steps from `begin` on, and at `end`."""

    def is_due(step: Step) -> Any:
        return (step >= begin) & (step <= end) & (((step - begin) % every == 0) | (step == end))

    return is_due


def progress_at(step: Step, begin: int, end: int) -> Any:
    """The share of the way from `begin` to `end` that is behind, in [0, 1]."""
    return (
        jnp.clip((step - begin) / max(end - begin, 1), 0.0, 1.0)
        if end > begin
        else 1.0 * (step >= end)
    )


def check(name: str, sparsity: float, begin: int, end: int, every: int) -> None:
    """Raises if a schedule's numbers are out of their ranges."""
    check_sparsity(name, sparsity, "sparsity")
    if not 0 <= begin <= end:
        raise ValueError(f"{name}: begin={begin}, end={end}; 0 <= begin <= end is needed.")
    if every < 1:
        raise ValueError(f"{name}: every={every}; at least 1 step must lie between two changes.")
    if max(end, every) > _MOST_STEPS:
        raise ValueError(
            f"{name}: begin={begin}, end={end}, every={every}; steps are counted in int32, to {_MOST_STEPS}."
        )


def check_power(name: str, power: float) -> None:
    """Raises if a rise does not land on its target."""
    if not power > 0:
        raise ValueError(f"{name}: a power above 0 is needed to land on the target.")


def check_sparsity(name: str, value: float, argument: str) -> None:
    """Raises if a number is no fraction removed, or would remove all."""
    if not 0 <= value < 1:
        raise ValueError(
            f"{name}: {argument}={value}; it is the fraction removed, in [0, 1): 0.9 keeps one weight in ten."
        )
    if value >= REMOVES_ALL:
        raise ValueError(
            f"{name}: {argument}={value} removes all, as fractions are read to seven decimals; 0.9999999 is "
            "the most."
        )
