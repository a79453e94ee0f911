"""Which units masks remove whole."""

from collections.abc import Sequence

import jax
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.structured.graph import Graph
from jaxprune.types import Masks

__all__ = ["removed", "removed_axes"]


def removed(graph: Graph, masks: Masks) -> np.ndarray:
    """Per class of the graph's solution, whether it is a unit of which every slice is masked.

    A kernel without a mask keeps all it has; a bias or statistic without one keeps nothing alive.

    Raises:
      ValueError: if nothing of a group would be left.
    """
    beside = masks_lib.beside(graph.params, masks_lib.unpack(masks))
    left: list[list[np.ndarray] | None] = []
    for name, shape, mask in zip(graph.paths, jax.tree.leaves(graph.params), beside, strict=True):
        if mask is None and not masks_lib.is_prunable(name, shape):
            left.append(None)
            continue
        whole = np.ones(shape.shape, bool) if mask is None else np.asarray(mask)
        axes = range(whole.ndim)
        left.append([np.asarray(whole.any(tuple(j for j in axes if j != i))) for i in axes])
    return removed_axes(graph, left)


def removed_axes(graph: Graph, left: Sequence[Sequence[np.ndarray] | None]) -> np.ndarray:
    """Per class, whether it is a unit of which no axis has anything left.

    Args:
      graph: of the function.
      left: per leaf and axis, which indices have something left; `None`: a leaf that does not count.
    """
    found, number = (
        np.zeros(graph.solution.classes, bool),
        {p: i for i, p in enumerate(graph.paths)},
    )
    for group in graph.groups:
        counted = [m for m in group.members if left[number[m.path]] is not None]
        if not counted:
            continue
        gone = np.ones(group.size, bool)
        for m in counted:
            gone &= ~left[number[m.path]][m.axis][m.index].any(1)  # type: ignore[index]
        if gone.all():
            raise ValueError(
                f"structured.shrink: the masks leave nothing of the group {group.name}."
            )
        found[group.units[gone]] = True
    return found
