"""Which units and blocks some masks remove whole."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.structured.graph.blocks import Block, empty_blocks
from jaxprune.structured.graph.graph import Graph
from jaxprune.types import Masks

__all__ = ["Removal", "removal", "removed_classes"]


class Removal(NamedTuple):
    """What some masks remove whole.

    Attributes:
      classes: boolean per equivalence class: it is a unit, or an iteration of a loop, and all its slices are
        masked.
      blocks: the residual branches of which every parameter is masked.
    """

    classes: np.ndarray
    blocks: tuple[Block, ...]

    def kept(self, graph: Graph) -> list[list[np.ndarray]]:
        """Returns per leaf and axis a boolean per index: it is left.

        Of a leaf that only removed blocks read, nothing of the first axis is left.

        Args:
          graph: of the function, from `trace`.
        """
        removed_paths = {path for block in self.blocks for path in block.paths}
        return [
            [np.zeros_like(kept_masks[0]), *kept_masks[1:]]
            if path in removed_paths and kept_masks
            else kept_masks
            for path, kept_masks in zip(graph.paths, graph.kept(self.classes), strict=True)
        ]


def removal(graph: Graph, masks: Masks) -> Removal:
    """Returns the units and blocks that masks remove whole.

    A kernel without a mask keeps all its units; a bias without one, or a leaf without elements, keeps none.

    Args:
      graph: of the function, from `trace`.
      masks: bool arrays, `None` at leaves without a mask.

    Raises:
      ValueError: if masks do not fit the parameters; or if no unit of a group would be left, and it does not
        belong to a removed block.
    """
    masks_lib.validate(graph.params, masks)
    aligned_masks = masks_lib.beside(graph.params, masks_lib.unpack(masks))
    leaves = zip(graph.paths, jax.tree.leaves(graph.params), aligned_masks, strict=True)
    kept_masks: list[list[np.ndarray] | None] = []
    empty_paths: list[str] = []
    silent_paths: list[str] = []
    for path, shape, leaf_mask in leaves:
        if 0 in shape.shape or (leaf_mask is None and not masks_lib.is_prunable(path, shape)):
            kept_masks.append(None)
            silent_paths.append(path)
            continue
        mask = np.ones(shape.shape, bool) if leaf_mask is None else np.asarray(leaf_mask)
        if not mask.any():
            empty_paths.append(path)
        axes = range(mask.ndim)
        kept_masks.append(
            [np.asarray(mask.any(tuple(j for j in axes if j != axis))) for axis in axes]
        )
    blocks = empty_blocks(graph, empty_paths, silent_paths)
    paths_of_blocks = {path for block in blocks for path in block.paths}
    return Removal(removed_classes(graph, kept_masks, paths_of_blocks), blocks)


def removed_classes(
    graph: Graph,
    kept_masks: Sequence[Sequence[np.ndarray] | None],
    removed_paths: set[str],
    *,
    refuses: bool = True,
) -> np.ndarray:
    """Returns a boolean per equivalence class: it is a unit or an iteration, and all its slices are masked.

    Args:
      graph: of the function, from `trace`.
      kept_masks: per leaf and axis, a boolean per index: something of its slice is left; `None`: a leaf that
        does not count.
      removed_paths: paths of the leaves that go with blocks, which do not count either.
      refuses: whether to raise where no unit of a group would be left.

    Raises:
      ValueError: if no unit of a group would be left, and `refuses`.
    """
    class_mask = np.zeros(graph.solution.class_count, bool)
    leaf_index = {path: index for index, path in enumerate(graph.paths)}
    groups = [(group, True) for group in graph.iterations] + [
        (group, False) for group in graph.groups
    ]
    for group, is_loop in groups:
        members = [
            member
            for member in group.members
            if member.path not in removed_paths and kept_masks[leaf_index[member.path]] is not None
        ]
        if not members:
            continue
        dead_mask = np.ones(group.size, bool)
        for member in members:
            axis_mask = kept_masks[leaf_index[member.path]][member.axis]  # type: ignore[index]
            dead_mask &= ~axis_mask[member.index].any(1)
        if dead_mask.all() and is_loop:  # of the stacks nothing is left, whatever their width
            removed_paths = removed_paths | {member.path for member in group.members}
        elif dead_mask.all() and refuses:
            raise ValueError(
                f"structured.shrink: the masks leave nothing of the group {group.name}."
            )
        class_mask[group.units[dead_mask]] = True
    return class_mask
