"""Checks of what functions of a graph are given: a graph, and the parameters beside it, in this order."""

from typing import Any

from jaxprune import checks

__all__ = ["check_graph"]

# Told by what it holds: modules that graphs are made of ask as well, and cannot import their class.
_GRAPH = checks.Kind(
    "a graph",
    lambda value: hasattr(value, "solution") and hasattr(value, "tape"),
    lambda _: "structured.trace(fn, params, *inputs) makes one",
)


def check_graph(who: str, graph: Any, params: Any = None) -> None:
    """Refuses what is no graph, and parameters in its place."""
    checks.check(who, graph=(graph, _GRAPH), params=(params, checks.TREE))
