"""Schedules whose sparsity rises to a target, and stays there."""

import jax.numpy as jnp

from jaxprune.parts import factory
from jaxprune.schedules.grid import (
    REMOVES_ALL,
    check,
    check_power,
    check_sparsity,
    is_on_grid,
    progress_at,
)
from jaxprune.types import Schedule, Sparsity, Step


@factory
def one_shot(*, sparsity: float, at: int = 0) -> Schedule:
    """Returns the schedule that reaches the sparsity in one change, before the update `at`.

    Args:
      sparsity: fraction removed, in [0, 1).
      at: update, counted from 0.

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    >>> one_shot(sparsity=0.9, at=100).due(100), one_shot(sparsity=0.9).sparsity(0)
    (True, 0.9)
    """
    check("one_shot", sparsity, at, at, 1)
    return Schedule(due=lambda step: step == at, sparsity=lambda step: sparsity, end=at)


@factory
def polynomial(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int = 1,
    power: float = 3.0,
    initial: float = 0.0,
) -> Schedule:
    """Returns gradual pruning, fast at first: $s_t = s_f + (s_0 - s_f)(1 - (t-t_0)/(t_1-t_0))^p$.

    Args:
      sparsity: target $s_f$, the fraction removed, in [0, 1), reached at `end` exactly.
      begin: $t_0$, first update, counted from 0, at which masks change.
      end: $t_1$, last update at which masks change.
      every: updates from one change to the next.
      power: exponent $p$ above 0; 3 is the cubic schedule of the reference.
      initial: sparsity $s_0$ at `begin`, in [0, 1).

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression"
      (2017), equation 1. Departure: a change at `end` whether or not it is on the grid.

    >>> round(float(polynomial(sparsity=0.8, begin=0, end=10).sparsity(5)), 4)
    0.7
    """
    return _polynomial(f"polynomial(power={power})", sparsity, begin, end, every, power, initial)


@factory
def cubic(
    *, sparsity: float, begin: int, end: int, every: int = 1, initial: float = 0.0
) -> Schedule:
    """Returns the usual schedule of gradual pruning: `polynomial` with the power 3.

    Args:
      sparsity: fraction removed, in [0, 1), reached at `end`.
      begin: first update, counted from 0, at which masks change.
      end: last update at which masks change.
      every: updates from one change to the next.
      initial: sparsity at `begin`, in [0, 1).

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression"
      (2017), equation 1. Departure: a change at `end` whether or not it is on the grid.

    >>> [round(float(cubic(sparsity=0.8, begin=0, end=10).sparsity(step)), 2) for step in (0, 5, 10)]
    [0.0, 0.7, 0.8]
    """
    return _polynomial("cubic", sparsity, begin, end, every, 3.0, initial)


@factory
def linear(
    *, sparsity: float, begin: int, end: int, every: int = 1, initial: float = 0.0
) -> Schedule:
    """Returns gradual pruning by the same number of weights at every change: `polynomial` with the power 1.

    Args:
      sparsity: fraction removed, in [0, 1), reached at `end`.
      begin: first update, counted from 0, at which masks change.
      end: last update at which masks change.
      every: updates from one change to the next.
      initial: sparsity at `begin`, in [0, 1).

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    >>> [round(float(linear(sparsity=0.8, begin=0, end=10).sparsity(step)), 2) for step in (0, 5, 10)]
    [0.0, 0.4, 0.8]
    """
    return _polynomial("linear", sparsity, begin, end, every, 1.0, initial)


@factory
def exponential(
    *, sparsity: float, begin: int, end: int, every: int = 1, initial: float = 0.0
) -> Schedule:
    r"""Returns gradual pruning by the same share of what is left: $1 - s_t = (1-s_0)((1-s_f)/(1-s_0))^\tau$.

    $\tau$ runs from 0 at `begin` to 1 at `end`.

    Args:
      sparsity: target $s_f$, the fraction removed, in [0, 1), reached at `end` exactly.
      begin: first update, counted from 0, at which masks change.
      end: last update at which masks change.
      every: updates from one change to the next.
      initial: sparsity $s_0$ at `begin`, in [0, 1).

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    >>> round(float(exponential(sparsity=0.75, begin=0, end=10).sparsity(5)), 4)
    0.5
    """
    check("exponential", sparsity, begin, end, every)
    check_sparsity("exponential", initial, "initial")
    ratio = (1 - sparsity) / (1 - initial)

    def sparsity_at(step: Step) -> Sparsity:
        progress = progress_at(step, begin, end)
        return jnp.where(progress >= 1, sparsity, 1 - (1 - initial) * ratio**progress)

    return Schedule(is_on_grid(begin, end, every), sparsity_at, end)


@factory
def levels(*, rate: float, every: int, levels: int, begin: int = 0) -> Schedule:
    """Returns rounds of pruning: each removes `rate` of what the one before left, $s_k = 1 - (1-r)^{k+1}$.

    Args:
      rate: share $r$ of the surviving weights that a round removes, in [0, 1).
      every: updates from one round to the next.
      levels: number of rounds; so many that $s_k$ rounds to 1 at seven decimals are refused.
      begin: update, counted from 0, of the first round.

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    >>> [round(float(levels(rate=0.5, every=10, levels=3).sparsity(t)), 3) for t in (0, 10, 20)]
    [0.5, 0.75, 0.875]
    """
    if levels < 1:
        raise ValueError(f"levels(levels={levels}): at least one round is needed.")
    end = begin + (levels - 1) * every
    check_sparsity("levels", rate, "rate")
    check("levels", rate, begin, end, every)
    targets = [1 - (1 - rate) ** (k + 1) for k in range(levels)]
    if targets[-1] >= REMOVES_ALL:
        enough = next(k for k, target in enumerate(targets) if target >= REMOVES_ALL)
        raise ValueError(
            f"levels(rate={rate}, levels={levels}): all would be removed after {enough} rounds, as fractions "
            f"are read to seven decimals; ask for {enough} at most."
        )

    def sparsity_at(step: Step) -> Sparsity:
        level_index = jnp.clip((step - begin) // every, 0, levels - 1)
        return jnp.asarray(targets, jnp.float32)[level_index]

    return Schedule(is_on_grid(begin, end, every), sparsity_at, end)


def _polynomial(
    name: str, sparsity: float, begin: int, end: int, every: int, power: float, initial: float
) -> Schedule:
    check(name, sparsity, begin, end, every)
    check_sparsity(name, initial, "initial")
    check_power(name, power)

    def sparsity_at(step: Step) -> Sparsity:
        return sparsity + (initial - sparsity) * (1 - progress_at(step, begin, end)) ** power

    return Schedule(is_on_grid(begin, end, every), sparsity_at, end)
