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

    A copy of a whole part of the tree belongs to that part, leaf by leaf: an optimizer's moments, an averaged
    network. A vector belongs to the vectors of its module, if these live and die alike: running averages. All
    others belong to nobody, whatever they look like.

    Args:
      paths: of the parameters.
      axes: their labels.
      unread: indices of those that nobody reads.
      solution: what the labels come down to.
    """
    found, idle = list(axes), set(unread)
    sizes = [tuple(len(axis) for axis in own) for own in axes]
    index = {path: leaf for leaf, path in enumerate(paths)}
    read = [path for path in paths if index[path] not in idle]
    followed = _copies(read, [paths[leaf] for leaf in sorted(idle)])
    for leaf in idle:
        module = paths[leaf].rpartition("/")[0]
        owners = [index[path] for path in followed.get(paths[leaf], ())]
        if not owners and sum(n > 1 for n in sizes[leaf]) == 1:
            owners = [index[path] for path in read if path.rpartition("/")[0] == module]
        owners = [owner for owner in owners if sizes[owner] == sizes[leaf]]
        if owners and all(_alike(axes[owners[0]], axes[other], solution) for other in owners):
            found[leaf] = axes[owners[0]]
    return found


def _copies(read: Sequence[str], idle: Sequence[str]) -> dict[str, list[str]]:
    """Paths that nobody reads -> those that are read in the part of the tree of which they are a copy.

    A part is all that is read, or what is read below a first name: several modules, as a single one may look
    like another by chance.
    """
    found: dict[str, list[str]] = {}
    there = set(idle)
    firsts = dict.fromkeys(path.split("/", 1)[0] + "/" for path in read if "/" in path)
    for start in ("", *firsts):
        part = [path.removeprefix(start) for path in read if path.startswith(start)]
        if len(part) < len(read) and not any("/" in path for path in part):
            continue
        for path in idle:
            before = path.removesuffix(part[0])
            whole_names = before != path and (not before or before.endswith("/"))
            if whole_names and all(before + own in there for own in part):
                for own in part:
                    found.setdefault(before + own, []).append(start + own)
    return found


def _alike(a: Axes, b: Axes, solution: Solution) -> bool:
    return all(np.array_equal(solution.of[x], solution.of[y]) for x, y in zip(a, b, strict=True))
