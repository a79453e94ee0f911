"""Schedules: when masks change, and how sparse they must be by then.

Steps count the updates from 0. A schedule is due on a grid that starts at `begin`, and at `end` whatever
the grid: the last change lands on the target. `constant` has no last change.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxprune.parts import factory
from jaxprune.types import Schedule, Sparsity, Step

__all__ = [
    "alternate",
    "constant",
    "cubic",
    "cyclical",
    "every",
    "exponential",
    "levels",
    "linear",
    "never",
    "one_shot",
    "polynomial",
]


_MOST_STEPS = 2**31 - 1


def __dir__() -> list[str]:
    return sorted(__all__)


@factory
def one_shot(*, sparsity: float, at: int = 0) -> Schedule:
    """Returns the schedule that removes everything at once, before the update `at`.

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
    _check("one_shot", sparsity, at, at, 1)
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
    name = f"polynomial(power={power})"
    _check(name, sparsity, begin, end, every)
    _check_sparsity(name, initial, "initial")
    _check_power(name, power)

    def sparsity_at(step: Step) -> Sparsity:
        return sparsity + (initial - sparsity) * (1 - _progress(step, begin, end)) ** power

    return Schedule(_is_on_grid(begin, end, every), sparsity_at, end)


@factory
def cubic(
    *, sparsity: float, begin: int, end: int, every: int = 1, initial: float = 0.0
) -> Schedule:
    """Returns gradual pruning's own schedule: `polynomial` with the power 3.

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
    return polynomial(
        sparsity=sparsity, begin=begin, end=end, every=every, power=3.0, initial=initial
    )


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
    return polynomial(
        sparsity=sparsity, begin=begin, end=end, every=every, power=1.0, initial=initial
    )


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
    _check("exponential", sparsity, begin, end, every)
    _check_sparsity("exponential", initial, "initial")
    ratio = (1 - sparsity) / (1 - initial)

    def sparsity_at(step: Step) -> Sparsity:
        progress = _progress(step, begin, end)
        return jnp.where(progress >= 1, sparsity, 1 - (1 - initial) * ratio**progress)

    return Schedule(_is_on_grid(begin, end, every), sparsity_at, end)


@factory
def levels(*, rate: float, every: int, levels: int, begin: int = 0) -> Schedule:
    """Returns rounds of pruning: each removes `rate` of what the one before left, $s_k = 1 - (1-r)^{k+1}$.

    Args:
      rate: share $r$ of the surviving weights that a round removes, in [0, 1).
      every: updates from one round to the next.
      levels: number of rounds.
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
    _check_sparsity("levels", rate, "rate")
    _check("levels", rate, begin, end, every)
    targets = [1 - (1 - rate) ** (k + 1) for k in range(levels)]

    def sparsity_at(step: Step) -> Sparsity:
        level_index = jnp.clip((step - begin) // every, 0, levels - 1)
        return jnp.asarray(targets, jnp.float32)[level_index]

    return Schedule(_is_on_grid(begin, end, every), sparsity_at, end)


@factory
def every(every: int, *, sparsity: float, end: int, begin: int | None = None) -> Schedule:
    """Returns a constant sparsity whose places are dealt out anew: dynamic sparse training.

    Args:
      every: updates from one change of the masks to the next.
      sparsity: fraction removed, in [0, 1), constant.
      end: last update at which masks change; papers stop at about 75 % of the training.
      begin: first such update, counted from 0; `None`: after `every` updates.

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    >>> [t for t in range(12) if every(5, sparsity=0.9, end=11).due(t)]
    [5, 10, 11]
    """
    begin = every if begin is None else begin
    _check("every", sparsity, begin, end, every)
    return Schedule(_is_on_grid(begin, end, every), lambda step: sparsity, end)


@factory
def constant(*, sparsity: float, begin: int = 0, every: int = 1) -> Schedule:
    """Returns a constant sparsity for as long as training goes on: masks change without an end.

    Its `end`, the step from which on the target is reached, is `begin`.

    Args:
      sparsity: fraction removed, in [0, 1), constant.
      begin: first update, counted from 0, at which masks change.
      every: updates from one change to the next.

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    >>> [t for t in range(12) if constant(sparsity=0.5, begin=2, every=4).due(t)]
    [2, 6, 10]
    """
    _check("constant", sparsity, begin, begin, every)

    def is_due(step: Step) -> Any:
        return (step >= begin) & ((step - begin) % every == 0)

    return Schedule(is_due, lambda step: sparsity, begin)


@factory
def never(*, sparsity: float = 0.0) -> Schedule:
    """Returns a constant sparsity and masks that never change: those that a method starts from stay.

    Args:
      sparsity: fraction removed, in [0, 1), of the first masks.

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    >>> never(sparsity=0.9).due(0), never().sparsity(0)
    (False, 0.0)
    """
    _check_sparsity("never", sparsity, "sparsity")
    return Schedule(due=lambda step: False, sparsity=lambda step: sparsity, end=0)


@factory
def alternate(*, sparsity: float, every: int, begin: int, end: int) -> Schedule:
    """Returns sparse and dense phases in turn, the last of them sparse.

    Args:
      sparsity: fraction removed in the sparse phases, in [0, 1); in the dense ones nothing is removed.
      every: updates of a phase.
      begin: update, counted from 0, of the first sparse phase; before it the network is dense.
      end: update from which on the network is sparse; where an even number of phases lies before it, that is
        where the last sparse phase begins.

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Peste, Iofinova, Vladu & Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training of Deep
      Neural Networks" (2021).

    >>> [float(alternate(sparsity=0.9, every=2, begin=0, end=6).sparsity(t)) for t in range(0, 9, 2)]
    [0.8999999761581421, 0.0, 0.8999999761581421, 0.8999999761581421, 0.8999999761581421]
    """
    _check("alternate", sparsity, begin, end, every)

    def sparsity_at(step: Step) -> Sparsity:
        is_compressed = (step >= begin) & ((step - begin) // every % 2 == 0)
        return jnp.where(is_compressed | (step >= end), jnp.float32(sparsity), 0.0)

    return Schedule(_is_on_grid(begin, end, every), sparsity_at, end)


@factory
def cyclical(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int = 1,
    cycles: int,
    power: float = 3.0,
    initial: float = 0.0,
) -> Schedule:
    """Returns `polynomial`, over and over: each cycle starts again from the initial sparsity.

    With an update that ranks units off the mask too (`updates.reselect`), what one cycle has pruned wrongly
    can come back in the next.

    Args:
      sparsity: fraction removed at the last change of every cycle, in [0, 1).
      begin: first update, counted from 0, at which masks change.
      end: last update at which masks change.
      every: updates from one change to the next.
      cycles: how often the sparsity rises.
      power: exponent of the rise, above 0.
      initial: sparsity at the start of each cycle, in [0, 1).

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range, or a cycle would have fewer than two changes.

    References:
      Srinivas, Kuzmin, Nagel, van Baalen, Skliar & Blankevoort, "Cyclical Pruning for Sparse Neural
      Networks" (2022).

    >>> two = cyclical(sparsity=0.8, begin=0, end=20, every=5, cycles=2, power=1.0)
    >>> [round(float(two.sparsity(t)), 2) for t in (0, 5, 10, 15, 20)]
    [0.0, 0.8, 0.0, 0.8, 0.8]
    """
    _check("cyclical", sparsity, begin, end, every)
    _check_sparsity("cyclical", initial, "initial")
    _check_power(f"cyclical(power={power})", power)
    cycle_length = (end - begin) // max(cycles, 1) // every * every  # a whole number of changes
    if cycles < 1 or cycle_length < 2 * every:
        raise ValueError(
            f"cyclical(cycles={cycles}, begin={begin}, end={end}, every={every}): at least one cycle of at "
            "least two changes is needed; fewer cycles, or a smaller `every`."
        )

    def sparsity_at(step: Step) -> Sparsity:
        is_after_last_cycle = step >= begin + cycles * cycle_length
        step_in_cycles = jnp.maximum(step - begin, 0)
        step_in_cycle = jnp.where(is_after_last_cycle, cycle_length, step_in_cycles % cycle_length)
        progress = jnp.clip(step_in_cycle / (cycle_length - every), 0.0, 1.0)
        return sparsity + (initial - sparsity) * (1 - progress) ** power

    return Schedule(_is_on_grid(begin, end, every), sparsity_at, end)


def _is_on_grid(begin: int, end: int, every: int) -> Callable[[Step], Any]:
    """Returns step -> whether masks change: every so many steps from `begin` on, and at `end`."""

    def is_due(step: Step) -> Any:
        return (step >= begin) & (step <= end) & (((step - begin) % every == 0) | (step == end))

    return is_due


def _progress(step: Step, begin: int, end: int) -> Any:
    """The share of the way from `begin` to `end` that is behind, in [0, 1]."""
    return (
        jnp.clip((step - begin) / max(end - begin, 1), 0.0, 1.0)
        if end > begin
        else 1.0 * (step >= end)
    )


def _check(name: str, sparsity: float, begin: int, end: int, every: int) -> None:
    _check_sparsity(name, sparsity, "sparsity")
    if not 0 <= begin <= end:
        raise ValueError(f"{name}: begin={begin}, end={end}; 0 <= begin <= end is needed.")
    if every < 1:
        raise ValueError(f"{name}: every={every}; at least 1 step must lie between two changes.")
    if max(end, every) > _MOST_STEPS:
        raise ValueError(
            f"{name}: begin={begin}, end={end}, every={every}; steps are counted in int32, to {_MOST_STEPS}."
        )


def _check_power(name: str, power: float) -> None:
    if not power > 0:
        raise ValueError(f"{name}: a power above 0 is needed to land on the target.")


def _check_sparsity(name: str, value: float, argument: str) -> None:
    if not 0 <= value < 1:
        raise ValueError(
            f"{name}: {argument}={value}; it is the fraction removed, in [0, 1): 0.9 keeps one weight in ten."
        )
