"""Parameters that a function does not read: they follow others, or stay whole."""

from collections.abc import Collection, Sequence

import numpy as np

from jaxprune.structured.labels import Axes
from jaxprune.structured.solve import Solution
from jaxprune.structured.walk import Tape

__all__ = ["beside", "unread"]


def unread(tape: Tape, count: int) -> list[int]:
    """Indices of the parameters that no equation reads and no output is.

    Args:
      tape: of a program whose first inputs are the parameters.
      count: of the parameters.
    """
    read = {number for step in tape.steps for number in step.reads} | set(tape.outputs)
    return [leaf for leaf, number in enumerate(tape.inputs[:count]) if number not in read]


def beside(
    paths: Sequence[str], axes: Sequence[Axes], unread: Collection[int], solution: Solution
) -> list[Axes]:
    """Returns the labels of all parameters; one that nobody reads has those of the one that it belongs to.

    Moments of an optimizer belong to the parameter whose path theirs ends with, running averages to their
    neighbours of one module. Where several could be meant, they must live and die alike.

    Args:
      paths: of the parameters.
      axes: their labels.
      unread: indices of those that nobody reads.
      solution: what the labels come down to.
    """
    found, idle = list(axes), set(unread)
    sizes = [tuple(len(axis) for axis in own) for own in axes]
    keys = [path.split("/") for path in paths]
    read = [leaf for leaf in range(len(paths)) if leaf not in idle]
    for leaf in idle:
        same = [other for other in read if sizes[other] == sizes[leaf] and sizes[leaf]]
        common = {other: _common_end(keys[leaf], keys[other]) for other in same}
        longest = max(common.values(), default=0)
        owners = [other for other in same if common[other] == longest > 0]
        owners = owners or [other for other in same if keys[other][:-1] == keys[leaf][:-1]]
        if owners and all(_alike(axes[owners[0]], axes[other], solution) for other in owners):
            found[leaf] = axes[owners[0]]
    return found


def _common_end(a: Sequence[str], b: Sequence[str]) -> int:
    """How many of the last names two paths have in common."""
    count = 0
    for x, y in zip(reversed(a), reversed(b), strict=False):
        if x != y:
            break
        count += 1
    return count


def _alike(a: Axes, b: Axes, solution: Solution) -> bool:
    return all(np.array_equal(solution.of[x], solution.of[y]) for x, y in zip(a, b, strict=True))
