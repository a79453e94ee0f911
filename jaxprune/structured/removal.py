"""What masks remove whole: units, and blocks."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.structured.depth import Block, empty_blocks
from jaxprune.structured.graph import Graph
from jaxprune.types import Masks

__all__ = ["Removal", "removal", "removed_axes"]


class Removal(NamedTuple):
    """What goes.

    Attributes:
      classes: per class of the graph's solution, whether it is a unit, or a turn of a loop, of which every
        slice is masked.
      blocks: those others of which every parameter is masked.
    """

    classes: np.ndarray
    blocks: tuple[Block, ...]

    def kept(self, graph: Graph) -> list[list[np.ndarray]]:
        """Per leaf and axis, which indices are left; of what only blocks read, none of the first axis."""
        gone = {path for block in self.blocks for path in block.paths}
        left = graph.kept(self.classes)
        return [
            [np.zeros_like(own[0]), *own[1:]] if path in gone and own else own
            for path, own in zip(graph.paths, left, strict=True)
        ]


def removal(graph: Graph, masks: Masks) -> Removal:
    """Returns what goes.

    A kernel without a mask keeps all it has; a bias without one, or a leaf without entries, keeps nothing.

    Raises:
      ValueError: if nothing of a group would be left that no block takes along.
    """
    beside = masks_lib.beside(graph.params, masks_lib.unpack(masks))
    left: list[list[np.ndarray] | None] = []
    empty, silent = [], []
    for name, shape, mask in zip(graph.paths, jax.tree.leaves(graph.params), beside, strict=True):
        if 0 in shape.shape or (mask is None and not masks_lib.is_prunable(name, shape)):
            left.append(None)
            silent.append(name)
            continue
        whole = np.ones(shape.shape, bool) if mask is None else np.asarray(mask)
        if not whole.any():
            empty.append(name)
        axes = range(whole.ndim)
        left.append([np.asarray(whole.any(tuple(j for j in axes if j != i))) for i in axes])
    gone = empty_blocks(graph, empty, silent)
    return Removal(removed_axes(graph, left, {p for block in gone for p in block.paths}), gone)


def removed_axes(
    graph: Graph,
    left: Sequence[Sequence[np.ndarray] | None],
    gone: set[str],
    *,
    refuses: bool = True,
) -> np.ndarray:
    """Per class, whether it is a unit, or a turn of a loop, of which no axis has anything left.

    Args:
      graph: of the function.
      left: per leaf and axis, which indices have something left; `None`: a leaf that does not count.
      gone: paths of the leaves that go with blocks, which count for nothing.
      refuses: whether to raise where nothing of a group would be left.
    """
    found, number = (
        np.zeros(graph.solution.class_count, bool),
        {p: i for i, p in enumerate(graph.paths)},
    )
    for group, turns in [(g, True) for g in graph.iterations] + [(g, False) for g in graph.groups]:
        own = [m for m in group.members if m.path not in gone]
        counted = [m for m in own if left[number[m.path]] is not None]
        if not counted:
            continue
        dead = np.ones(group.size, bool)
        for m in counted:
            dead &= ~left[number[m.path]][m.axis][m.index].any(1)  # type: ignore[index]
        if dead.all() and turns:  # of the stacks nothing is left, whatever their width
            gone = gone | {m.path for m in group.members}
        elif dead.all() and refuses:
            raise ValueError(
                f"structured.shrink: the masks leave nothing of the group {group.name}."
            )
        found[group.units[dead]] = True
    return found
