"""Parameters that a function does not read, whole or in part: they follow others, or stay."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from jaxprune.structured.graph.classes import EquivalenceClasses
from jaxprune.structured.graph.follow import Loop, Tape, tapes_within
from jaxprune.structured.graph.labels import AxisLabels

__all__ = ["UNREAD", "follow_owners", "pin_unread_units", "unread_parameters"]

UNREAD = "no equation reads it"
_PICKING = frozenset({"slice", "split"})  # what they leave out is not read


def unread_parameters(tape: Tape, count: int) -> list[int]:
    """Returns the indices of the parameters that no equation reads and no output is.

    Args:
      tape: of a program whose first inputs are the parameters.
      count: how many parameters there are.
    """
    read_values = {value_index for step in tape.steps for value_index in step.reads}
    read_values |= set(tape.outputs)
    return [
        leaf_index
        for leaf_index, value_index in enumerate(tape.inputs[:count])
        if value_index not in read_values
    ]


def pin_unread_units(
    tape: Tape, outputs: Sequence[AxisLabels], solution: EquivalenceClasses
) -> EquivalenceClasses:
    """Returns the classes, of which those stay that no equation reads: parts that slices leave out.

    For other inputs the function may read them: positions behind the longest sequence that was traced.

    Args:
      tape: of the program.
      outputs: labels of its outputs.
      solution: the equivalence classes of the labels.
    """
    read = np.zeros(solution.class_count, bool)
    for labels in (*_consumed_labels(tape, solution), *(axis for axes in outputs for axis in axes)):
        read[solution.base_classes(solution.class_of[labels])[1]] = True
    unread = ~(read | solution.pinned | solution.iterations | solution.is_product)
    if not unread.any():
        return solution
    reasons = tuple(dict.fromkeys([*solution.reasons, UNREAD]))
    return solution._replace(
        pinned=solution.pinned | unread,
        reason_index=np.where(unread, reasons.index(UNREAD), solution.reason_index),
        reasons=reasons,
    )


def _consumed_labels(tape: Tape, solution: EquivalenceClasses) -> Iterator[np.ndarray]:
    """Yields labels that go into an equation, and do not come out of it."""
    for step in tape.steps:
        inner_tapes = tapes_within(step)
        for inner_tape in inner_tapes:
            yield from _consumed_labels(inner_tape, solution)
        if isinstance(step.more, Loop):
            yield step.more.iterations
        if inner_tapes or step.equation.primitive.name in _PICKING:
            continue
        is_left = np.zeros(solution.class_count, bool)
        for axes in step.outputs:
            for labels in axes:
                is_left[solution.class_of[labels]] = True
        for axes in step.inputs:
            for labels in axes:
                consumed = labels[~is_left[solution.class_of[labels]]]
                if len(consumed):
                    yield consumed


def follow_owners(
    paths: Sequence[str],
    axes: Sequence[AxisLabels],
    unread: Collection[int],
    solution: EquivalenceClasses,
) -> list[AxisLabels]:
    """Returns the labels of all parameters; an unread one gets those of the parameter that owns it.

    A copy of a whole part of the tree belongs to that part, leaf by leaf: an optimizer's moments, an averaged
    network. A vector belongs to the vectors of its module, if these live and die alike: running averages. All
    others have no owner, whatever they look like.

    Args:
      paths: of the parameters.
      axes: their labels.
      unread: indices of those that no equation reads.
      solution: the equivalence classes of the labels.
    """
    new_axes = list(axes)
    unread_leaves = set(unread)
    sizes = [tuple(len(axis) for axis in leaf_axes) for leaf_axes in axes]
    index_of = {path: leaf_index for leaf_index, path in enumerate(paths)}
    read_paths = [path for path in paths if index_of[path] not in unread_leaves]
    originals = _copies(read_paths, [paths[leaf_index] for leaf_index in sorted(unread_leaves)])
    for leaf_index in unread_leaves:
        module = paths[leaf_index].rpartition("/")[0]
        owners = [index_of[path] for path in originals.get(paths[leaf_index], ())]
        if not owners and sum(size > 1 for size in sizes[leaf_index]) == 1:
            owners = [index_of[path] for path in read_paths if path.rpartition("/")[0] == module]
        owners = [owner for owner in owners if sizes[owner] == sizes[leaf_index]]
        if owners and all(
            _same_classes(axes[owners[0]], axes[other], solution) for other in owners
        ):
            new_axes[leaf_index] = axes[owners[0]]
    return new_axes


def _copies(read_paths: Sequence[str], unread_paths: Sequence[str]) -> dict[str, list[str]]:
    """Returns unread paths -> those that are read in the part of the tree of which they are a copy.

    A part is all that is read, or what is read below a first name: several modules, as a single one may look
    like another by chance.
    """
    originals_of: dict[str, list[str]] = {}
    unread_set = set(unread_paths)
    first_names = dict.fromkeys(path.split("/", 1)[0] + "/" for path in read_paths if "/" in path)
    for part_prefix in ("", *first_names):
        part_paths = [
            path.removeprefix(part_prefix) for path in read_paths if path.startswith(part_prefix)
        ]
        if len(part_paths) < len(read_paths) and not any("/" in path for path in part_paths):
            continue
        for path in unread_paths:
            copy_prefix = path.removesuffix(part_paths[0])
            ends_between_names = copy_prefix != path and (
                not copy_prefix or copy_prefix.endswith("/")
            )
            if ends_between_names and all(copy_prefix + name in unread_set for name in part_paths):
                for name in part_paths:
                    originals_of.setdefault(copy_prefix + name, []).append(part_prefix + name)
    return originals_of


def _same_classes(axes: AxisLabels, other_axes: AxisLabels, solution: EquivalenceClasses) -> bool:
    """Whether two parameters live and die alike, index by index."""
    return all(
        np.array_equal(solution.class_of[axis], solution.class_of[other_axis])
        for axis, other_axis in zip(axes, other_axes, strict=True)
    )
