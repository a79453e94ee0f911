"""Reasons why axes of the parameters stay as they are."""

from typing import TYPE_CHECKING

import numpy as np

from jaxprune.structured.graph.given import check_graph

if TYPE_CHECKING:
    from jaxprune.structured.graph.graph import Graph

__all__ = ["conflicts", "pinned"]


def pinned(graph: "Graph") -> dict[str, str]:
    """Returns why axes of the parameters stay as they are: the first reason that was met, by axis.

    The reason is an input, an output, an axis of length 1, or a primitive that takes in the axis as a whole.
    Where only some indices of an axis stay, their count stands in front: `2 of 8: `.

    Args:
      graph: of the function, from `trace`.

    Returns:
      A dict from `path[axis]` to the reason, of all axes of which something stays.

    >>> import jax, jax.numpy as jnp
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jnp.sort(x @ p["in"]) @ p["out"]
    >>> graph = trace(fn, {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}, jnp.ones((1, 3)))
    >>> pinned(graph)
    {'in[0]': 'an input', 'in[1]': '`sort`', 'out[0]': '`sort`', 'out[1]': 'an output'}
    """
    check_graph("structured.pinned", graph)
    solution = graph.solution
    reason_of: dict[str, str] = {}
    for path, axes in zip(graph.paths, graph.axes, strict=True):
        for axis_index, axis in enumerate(axes):
            classes = np.unique(solution.class_of[axis])
            position, base_classes = solution.base_classes(classes)
            is_free = np.bincount(position, ~solution.pinned[base_classes], len(classes)) > 0
            if is_free.all():
                continue
            reasons = solution.reason_index[base_classes[~is_free[position]]]
            commonest_reason = solution.reasons[np.bincount(reasons[reasons >= 0]).argmax()]
            pinned_count = np.isin(solution.class_of[axis], classes[~is_free]).sum()
            share = f"{pinned_count} of {len(axis)}: " if is_free.any() else ""
            reason_of[f"{path}[{axis_index}]"] = share + commonest_reason
    return reason_of


def conflicts(graph: "Graph") -> list[str]:
    """Returns the axes of the parameters that stay because reshapes of them do not fit together."""
    solution = graph.solution
    conflicting_axes: list[str] = []
    for path, axes in zip(graph.paths, graph.axes, strict=True):
        for axis_index, axis in enumerate(axes):
            _, base_classes = solution.base_classes(np.unique(solution.class_of[axis]))
            if solution.clashing[base_classes].any():
                conflicting_axes.append(f"{path}[{axis_index}]")
    return conflicting_axes
