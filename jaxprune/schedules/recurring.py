"""Schedules whose masks change at a constant sparsity or none, or whose sparsity falls again."""

from typing import Any

import jax.numpy as jnp

from jaxprune.parts import factory
from jaxprune.schedules.grid import check, check_power, check_sparsity, is_on_grid
from jaxprune.types import Schedule, Sparsity, Step


@factory
def every(every: int, *, sparsity: float, end: int, begin: int | None = None) -> Schedule:
    """Returns a constant sparsity with masks that change now and then: dynamic sparse training.

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
    check("every", sparsity, begin, end, every)
    return Schedule(is_on_grid(begin, end, every), lambda step: sparsity, end)


@factory
def constant(*, sparsity: float, begin: int = 0, every: int = 1) -> Schedule:
    """Returns a constant sparsity with masks that change until training ends.

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
    check("constant", sparsity, begin, begin, every)

    def is_due(step: Step) -> Any:
        return (step >= begin) & ((step - begin) % every == 0)

    return Schedule(is_due, lambda step: sparsity, begin)


@factory
def never(*, sparsity: float = 0.0) -> Schedule:
    """Returns a constant sparsity with masks that never change: the first masks of the method stay.

    Args:
      sparsity: fraction removed, in [0, 1), of the first masks.

    Returns:
      A schedule for `jaxprune.Method`.

    Raises:
      ValueError: if an argument is out of its range.

    >>> never(sparsity=0.9).due(0), never().sparsity(0)
    (False, 0.0)
    """
    check_sparsity("never", sparsity, "sparsity")
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
    check("alternate", sparsity, begin, end, every)

    def sparsity_at(step: Step) -> Sparsity:
        is_compressed = (step >= begin) & ((step - begin) // every % 2 == 0)
        return jnp.where(is_compressed | (step >= end), jnp.float32(sparsity), 0.0)

    return Schedule(is_on_grid(begin, end, every), sparsity_at, end)


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
    """Returns `polynomial` in several cycles, each of which starts again from the initial sparsity.

    With an update that also ranks removed units (`updates.reselect`), units that one cycle has pruned wrongly
    can return in the next.

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
    check("cyclical", sparsity, begin, end, every)
    check_sparsity("cyclical", initial, "initial")
    check_power(f"cyclical(power={power})", power)
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

    return Schedule(is_on_grid(begin, end, every), sparsity_at, end)
