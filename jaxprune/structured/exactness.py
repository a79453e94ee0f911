"""Which groups can be cut without anybody seeing it: told from the program, before anything is removed."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.coupling import Group
from jaxprune.structured.labels import Axes
from jaxprune.structured.replay import leaks
from jaxprune.structured.solve import EquivalenceClasses
from jaxprune.structured.walk import Tape

__all__ = ["flagged", "responsible"]


def flagged(
    groups: Sequence[Group],
    program: Any,
    tape: Tape,
    axes: Sequence[Axes],
    inputs: Sequence[jax.ShapeDtypeStruct],
    solution: EquivalenceClasses,
) -> tuple[Group, ...]:
    """Returns the groups, those that are not exact with the reason.

    The program is followed with every second unit of each group gone, on shapes alone. What the whole
    function would hold in their places starts as zeros in the parameters; where it ends in a sum over the
    units, and cannot be added there (`structured.remainders`), the units' group is not exact.

    Args:
      groups: of units.
      program: that was followed.
      tape: its equations.
      axes: labels of the parameters, which are its first inputs; others stay whole.
      inputs: shapes of all inputs.
      solution: what the labels come down to.
    """
    removed = np.zeros(solution.class_count, bool)
    for group in groups:
        removed[group.units[1::2]] = True
    if not removed.any():
        return tuple(groups)
    alive = solution.kept(removed)
    kept = lambda axis: alive[solution.class_of[axis]]
    left = [
        jax.ShapeDtypeStruct(tuple(int(kept(axis).sum()) for axis in own), x.dtype)
        for own, x in zip(axes, inputs, strict=False)
    ]
    left += inputs[len(axes) :]
    reasons: dict[int, list[str]] = {}

    def leak(reason: str, own: Axes) -> None:
        for i in responsible(groups, own, solution, removed):
            if reason not in reasons.setdefault(i, []):
                reasons[i].append(reason)

    leaks(program, left, tape, kept, leak)
    return tuple(
        group._replace(exact=False, reason="; ".join(reasons[i])) if i in reasons else group
        for i, group in enumerate(groups)
    )


def responsible(
    groups: Sequence[Group], axes: Axes, solution: EquivalenceClasses, removed: np.ndarray
) -> list[int]:
    """Numbers of the groups whose removed units are places of some axes."""
    alive = solution.kept(removed)
    gone = [solution.class_of[axis] for axis in axes]
    gone = [classes[~alive[classes]] for classes in gone]
    units = np.concatenate(
        [np.zeros(0, int), *(solution.base_classes(c)[1] for c in gone if len(c))]
    )
    units = units[removed[units]]
    return [i for i, group in enumerate(groups) if np.isin(group.units, units).any()]
