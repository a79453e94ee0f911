"""Schedules: when masks change, and how sparse they must be by then.

Steps count the updates from 0. A schedule is due on a grid that starts at `begin`, and at `end` whatever
the grid: the last change lands on the target. `constant` has no last change.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxprune import checks
from jaxprune.calls import makes
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

Scheduled = jax.Array | float | Callable[[Any], Any]


@factory
def one_shot(*, sparsity: float, at: int = 0) -> Schedule:
    """All at once, before the update number `at`.

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
    r"""Gradual pruning, fast at first: $s_t = s_f + (s_0 - s_f)(1 - (t-t_0)/(t_1-t_0))^p$.

    Args:
      sparsity: target $s_f$, reached at `end` exactly.
      begin: first step $t_0$ at which masks change.
      end: last step $t_1$ at which masks change.
      every: steps between two changes.
      power: exponent $p$; 3 is the cubic schedule of the reference.
      initial: sparsity $s_0$ at `begin`.

    References:
      Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression"
      (2017), equation 1. Departure: a change at `end` whether or not it is on the grid.

    >>> round(float(polynomial(sparsity=0.8, begin=0, end=10).sparsity(5)), 4)
    0.7
    """
    name = f"polynomial(power={power})"
    _check(name, sparsity, begin, end, every)
    _check_sparsity(name, initial, "initial")
    if not power > 0:
        raise ValueError(f"{name}: a power above 0 is needed to land on the target.")

    def at(step: Step) -> Sparsity:
        return sparsity + (initial - sparsity) * (1 - _progress(step, begin, end)) ** power

    return Schedule(_grid(begin, end, every), at, end)


@factory
def cubic(
    *, sparsity: float, begin: int, end: int, every: int = 1, initial: float = 0.0
) -> Schedule:
    """`polynomial` with the power 3: gradual magnitude pruning's own schedule."""
    return polynomial(
        sparsity=sparsity, begin=begin, end=end, every=every, power=3.0, initial=initial
    )


@factory
def linear(
    *, sparsity: float, begin: int, end: int, every: int = 1, initial: float = 0.0
) -> Schedule:
    """`polynomial` with the power 1: the same number of weights at every change."""
    return polynomial(
        sparsity=sparsity, begin=begin, end=end, every=every, power=1.0, initial=initial
    )


@factory
def exponential(
    *, sparsity: float, begin: int, end: int, every: int = 1, initial: float = 0.0
) -> Schedule:
    r"""The same share of what is left at every change: $1 - s_t = (1-s_0)((1-s_f)/(1-s_0))^\tau$.

    $\tau$ runs from 0 at `begin` to 1 at `end`.

    >>> round(float(exponential(sparsity=0.75, begin=0, end=10).sparsity(5)), 4)
    0.5
    """
    _check("exponential", sparsity, begin, end, every)
    _check_sparsity("exponential", initial, "initial")
    ratio = (1 - sparsity) / (1 - initial)

    def at(step: Step) -> Sparsity:
        progress = _progress(step, begin, end)
        return jnp.where(progress >= 1, sparsity, 1 - (1 - initial) * ratio**progress)

    return Schedule(_grid(begin, end, every), at, end)


@factory
def levels(*, rate: float, every: int, levels: int, begin: int = 0) -> Schedule:
    r"""Rounds of pruning: each removes `rate` of what the one before left, $s_k = 1 - (1-r)^{k+1}$.

    Args:
      rate: share $r$ of the surviving weights that a round removes.
      every: steps from one round to the next.
      levels: number of rounds.
      begin: step of the first round.

    >>> [round(float(levels(rate=0.5, every=10, levels=3).sparsity(t)), 3) for t in (0, 10, 20)]
    [0.5, 0.75, 0.875]
    """
    if levels < 1:
        raise ValueError(f"levels(levels={levels}): at least one round is needed.")
    end = begin + (levels - 1) * every
    _check_sparsity("levels", rate, "rate")
    _check("levels", rate, begin, end, every)
    targets = [1 - (1 - rate) ** (k + 1) for k in range(levels)]

    def at(step: Step) -> Sparsity:
        k = jnp.clip((step - begin) // every, 0, levels - 1)
        return jnp.asarray(targets, jnp.float32)[k]

    return Schedule(_grid(begin, end, every), at, end)


@factory
def every(every: int, *, sparsity: float, end: int, begin: int | None = None) -> Schedule:
    """A constant sparsity whose places are dealt out anew: dynamic sparse training.

    Args:
      every: steps between two changes of the masks.
      sparsity: constant.
      end: last step at which masks change; papers stop at about 75 % of the training.
      begin: first such step; `None`: after `every` steps.

    >>> [t for t in range(12) if every(5, sparsity=0.9, end=11).due(t)]
    [5, 10, 11]
    """
    begin = every if begin is None else begin
    _check("every", sparsity, begin, end, every)
    return Schedule(_grid(begin, end, every), lambda step: sparsity, end)


@factory
def constant(*, sparsity: float, begin: int = 0, every: int = 1) -> Schedule:
    """A constant sparsity for as long as training goes on: masks change every so many steps, without an end.

    Its `end`, the step from which on the target is reached, is `begin`.

    Args:
      sparsity: constant.
      begin: first step at which masks change.
      every: steps between two changes.

    >>> [t for t in range(12) if constant(sparsity=0.5, begin=2, every=4).due(t)]
    [2, 6, 10]
    """
    _check("constant", sparsity, begin, begin, every)
    due = lambda step: (step >= begin) & ((step - begin) % every == 0)
    return Schedule(due, lambda step: sparsity, begin)


@factory
def never(*, sparsity: float = 0.0) -> Schedule:
    """A constant sparsity, and masks that never change: those that a method starts from stay.

    >>> never(sparsity=0.9).due(0), never().sparsity(0)
    (False, 0.0)
    """
    _check_sparsity("never", sparsity, "sparsity")
    return Schedule(due=lambda step: False, sparsity=lambda step: sparsity, end=0)


@factory
def alternate(*, sparsity: float, every: int, begin: int, end: int) -> Schedule:
    """Sparse and dense phases in turn, the last of them sparse.

    Args:
      sparsity: of the sparse phases; in the dense ones nothing is removed.
      every: steps of a phase.
      begin: step of the first sparse phase; before it the network is dense.
      end: step from which on the network is sparse; where an even number of phases lies before it, that
        is where the last sparse phase begins.

    References:
      Peste, Iofinova, Vladu & Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training of Deep
      Neural Networks" (2021).

    >>> [float(alternate(sparsity=0.9, every=2, begin=0, end=6).sparsity(t)) for t in range(0, 9, 2)]
    [0.8999999761581421, 0.0, 0.8999999761581421, 0.8999999761581421, 0.8999999761581421]
    """
    _check("alternate", sparsity, begin, end, every)

    def at(step: Step) -> Sparsity:
        compressed = ((step - begin) // every % 2 == 0) | (step >= end)
        return jnp.where(compressed, jnp.float32(sparsity), 0.0)

    return Schedule(_grid(begin, end, every), at, end)


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
    """`polynomial`, over and over: each cycle starts again from the initial sparsity.

    With an update that revives (`updates.reselect`), what one cycle has pruned wrongly can come back
    in the next.

    Args:
      sparsity: target of every cycle, reached at its last change.
      begin: first step at which masks change.
      end: last such step.
      every: steps between two changes.
      cycles: how often sparsity rises.
      power: exponent of the rise.
      initial: sparsity at the start of each cycle.

    References:
      Srinivas, Kuzmin, Nagel, van Baalen, Skliar & Blankevoort, "Cyclical Pruning for Sparse Neural
      Networks" (2022).

    >>> two = cyclical(sparsity=0.8, begin=0, end=20, every=5, cycles=2, power=1.0)
    >>> [round(float(two.sparsity(t)), 2) for t in (0, 5, 10, 15, 20)]
    [0.0, 0.8, 0.0, 0.8, 0.8]
    """
    _check("cyclical", sparsity, begin, end, every)
    _check_sparsity("cyclical", initial, "initial")
    length = (end - begin) // max(cycles, 1) // every * every  # a whole number of changes
    if cycles < 1 or length < 2 * every:
        raise ValueError(
            f"cyclical(cycles={cycles}, begin={begin}, end={end}, every={every}): at least one cycle of at "
            "least two changes is needed; fewer cycles, or a smaller `every`."
        )

    def at(step: Step) -> Sparsity:
        within = jnp.where(step >= begin + cycles * length, length, (step - begin) % length)
        rise = jnp.clip(within / (length - every), 0.0, 1.0)
        return sparsity + (initial - sparsity) * (1 - rise) ** power

    return Schedule(_grid(begin, end, every), at, end)


def _grid(begin: int, end: int, every: int):
    def due(step: Step):
        return (step >= begin) & (step <= end) & (((step - begin) % every == 0) | (step == end))

    return due


def _progress(step: Step, begin: int, end: int):
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


def _check_sparsity(name: str, value: float, argument: str) -> None:
    if not 0 <= value < 1:
        raise ValueError(
            f"{name}: {argument}={value}; it is the fraction removed, in [0, 1): 0.9 keeps one weight in ten."
        )


def scheduled(who: str, **named: Scheduled) -> Callable[[Step], Any]:
    """A number, which is checked, or a schedule, as a function of the step.

    >>> scheduled("l1", strength=0.5)(7)
    0.5
    """
    ((name, value),) = named.items()
    checks.check(who, **{name: (value, _SCHEDULED)})
    if callable(value):
        return value
    if not isinstance(value, Tracer) and not 0 <= float(value) < math.inf:
        raise ValueError(f"{who}({name}={value!r}): a finite number, 0 or above, is needed.")
    return lambda step: value


def _is_scheduled(value: Any) -> bool:
    schedule = checks.is_function(value) and makes(value) is None and checks.takes(value, 1)
    return schedule or isinstance(value, Tracer) or checks.NUMBER.fits(value)


_SCHEDULED = checks.Kind(
    "a number or a schedule of optax, called",
    _is_scheduled,
    lambda value: (
        checks.NUMBER.remedy(value)
        if isinstance(value, str)
        else "such as optax.linear_schedule(0.0, 1e-3, transition_steps=1_000)"
    ),
)
