"""Which groups are exact: units can be cut and no output sees it. Told from the program, before any cut."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.structured.graph.classes import EquivalenceClasses
from jaxprune.structured.graph.follow import Tape
from jaxprune.structured.graph.labels import AxisLabels
from jaxprune.structured.graph.replay import find_leaks
from jaxprune.units.coupling import Group

__all__ = ["flagged", "responsible"]


def flagged(
    groups: Sequence[Group],
    program: Any,
    tape: Tape,
    axes: Sequence[AxisLabels],
    inputs: Sequence[jax.ShapeDtypeStruct],
    solution: EquivalenceClasses,
) -> tuple[Group, ...]:
    """Returns the groups, those that are not exact with the reason.

    The program is replayed on shapes alone with every second unit of each group removed, and then with the
    others removed, as the program may treat units unlike. In the whole function the parameters hold zeros in
    the places of removed units. Where what the program makes of the zeros ends in a sum over the units, and
    cannot be added to the sum (`structured.graph.remainders`), the units' group is not exact.

    Args:
      groups: of units.
      program: the one that the tape was made of.
      tape: the program's equations with their labels.
      axes: labels of the parameters, which are the program's first inputs; others are not cut.
      inputs: shapes of all inputs.
      solution: equivalence classes of the labels.
    """
    reasons: dict[int, list[str]] = {}
    for first_removed in (1, 0):
        removed_mask = np.zeros(solution.class_count, bool)
        for group in groups:
            if group.size > 1:  # one unit alone is never removed
                removed_mask[group.units[first_removed::2]] = True
        if not removed_mask.any():
            break
        class_mask = solution.kept(removed_mask)

        def kept(labels: np.ndarray, class_mask: np.ndarray = class_mask) -> np.ndarray:
            return class_mask[solution.class_of[labels]]

        def leak(reason: str, axes: AxisLabels, removed_mask: np.ndarray = removed_mask) -> None:
            for group_index in responsible(groups, axes, solution, removed_mask):
                if reason not in reasons.setdefault(group_index, []):
                    reasons[group_index].append(reason)

        small_inputs = [
            jax.ShapeDtypeStruct(tuple(int(kept(axis).sum()) for axis in leaf_axes), leaf.dtype)
            for leaf_axes, leaf in zip(axes, inputs, strict=False)
        ]
        find_leaks(program, [*small_inputs, *inputs[len(axes) :]], tape, kept, leak)
    return tuple(
        group._replace(exact=False, reason="; ".join(reasons[i])) if i in reasons else group
        for i, group in enumerate(groups)
    )


def responsible(
    groups: Sequence[Group],
    axes: AxisLabels,
    solution: EquivalenceClasses,
    removed_mask: np.ndarray,
) -> list[int]:
    """Returns the indices of the groups whose removed units some axes have run along.

    Args:
      groups: of units.
      axes: labels of axes that have lost indices.
      solution: equivalence classes of the labels.
      removed_mask: boolean per equivalence class: it is a removed unit.
    """
    class_mask = solution.kept(removed_mask)
    classes_of_axes = [solution.class_of[axis] for axis in axes]
    lost_classes = [classes[~class_mask[classes]] for classes in classes_of_axes]
    base_classes = [solution.base_classes(classes)[1] for classes in lost_classes if len(classes)]
    units = np.concatenate([np.zeros(0, int), *base_classes])
    units = units[removed_mask[units]]
    return [index for index, group in enumerate(groups) if np.isin(group.units, units).any()]
