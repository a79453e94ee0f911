"""Which axes of the parameters stay, and why."""

from typing import TYPE_CHECKING

import numpy as np

from jaxprune.structured.given import check_graph

if TYPE_CHECKING:
    from jaxprune.structured.graph import Graph

__all__ = ["conflicts", "pinned"]


def pinned(graph: "Graph") -> dict[str, str]:
    """Returns why axes of the parameters stay as they are: the first reason that was met, by axis.

    It is an input, an output, an axis of length 1, or what a primitive takes in whole. An axis of which some
    indices alone stay has their number in front.

    >>> import jax, jax.numpy as jnp
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jnp.sort(x @ p["in"]) @ p["out"]
    >>> graph = trace(fn, {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}, jnp.ones((1, 3)))
    >>> pinned(graph)
    {'in[0]': 'an input', 'in[1]': '`sort`', 'out[0]': '`sort`', 'out[1]': 'an output'}
    """
    check_graph("structured.pinned", graph)
    solution, found = graph.solution, {}
    for path, axes in zip(graph.paths, graph.axes, strict=True):
        for i, axis in enumerate(axes):
            classes = np.unique(solution.of[axis])
            position, parts = solution.parts(classes)
            free = np.bincount(position, ~solution.pinned[parts], len(classes)) > 0
            if free.all():
                continue
            reasons = solution.reason[parts[~free[position]]]
            most = solution.reasons[np.bincount(reasons[reasons >= 0]).argmax()]
            some = f"{np.isin(solution.of[axis], classes[~free]).sum()} of {len(axis)}: "
            found[f"{path}[{i}]"] = (some if free.any() else "") + most
    return found


def conflicts(graph: "Graph") -> list[str]:
    """The axes of the parameters that stay because reshapes of them do not fit together."""
    solution, found = graph.solution, []
    for path, axes in zip(graph.paths, graph.axes, strict=True):
        for i, axis in enumerate(axes):
            _, parts = solution.parts(np.unique(solution.of[axis]))
            if solution.clashing[parts].any():
                found.append(f"{path}[{i}]")
    return found
