"""Reports what the removal of units saves: units of each group, parameters, operations and time."""

import functools
from typing import Any, NamedTuple

import jax

from jaxprune.metrics.timing import seconds
from jaxprune.structured.costs import flops, parameters
from jaxprune.structured.graph.blocks import blocks
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.structured.shrinking.removal import Removal, removal
from jaxprune.structured.shrinking.shrink import shrink_silently
from jaxprune.types import Masks, Params

__all__ = ["Report", "report"]


class Report(NamedTuple):
    """Figures of a function before and after its masked units are removed. Printed, it is a table.

    Attributes:
      groups: name -> (units, units left), for the groups that lose units.
      blocks: names of the blocks that are removed.
      parameters: number of parameters before, after.
      flops: operations in products (`structured.flops`) before, after.
      seconds: time of the compiled function before, after; `None` if it was not measured.
      inexact: name -> reason, for the groups that lose units and are not exact: there the smaller function
        may differ from the masked one.
    """

    groups: dict[str, tuple[int, int]]
    blocks: tuple[str, ...]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    seconds: tuple[float, float] | None
    inexact: dict[str, str]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("group", "units", "left")]
        rows += [
            (name, f"{before:,}", f"{after:,}") for name, (before, after) in self.groups.items()
        ]
        rows += [(name, "block", "left out") for name in self.blocks]
        rows += [("", "before", "after", "ratio")]
        rows += [_ratio_row("parameters", self.parameters, ",")]
        rows += [_ratio_row("flops", self.flops, ",")]
        if self.seconds is not None:
            milliseconds = tuple(1e3 * time for time in self.seconds)
            rows.append(_ratio_row("milliseconds", milliseconds, ".3f"))
        width = max(len(row[0]) for row in rows)
        lines = [
            f"{row[0]:<{width}}" + "".join(f"  {cell:>14}" for cell in row[1:]) for row in rows
        ]
        lines += [f"not exact: {name}: {reason}" for name, reason in self.inexact.items()]
        return "\n".join(lines)


def report(graph: Graph, params: Params, masks: Masks, *inputs: Any, repeats: int = 10) -> Report:
    """Returns how many units, parameters and operations are left, and how long the small function takes.

    Args:
      graph: graph of the function, from `trace`.
      params: tree of arrays, as it was traced.
      masks: tree like `params` of bool arrays, `None` at leaves without a mask. All weights of a unit have
        the same mask.
      *inputs: inputs of the function, with which its time is measured. Without inputs it is not measured.
      repeats: number of measured runs of each function; the fastest counts.

    Returns:
      A `Report`, whose `str` is a table; its times are `None` without inputs.

    Raises:
      TypeError: if `graph` is not a graph, or `params` is not a tree of arrays.
      ValueError: if masks have other leaves than the parameters, or would remove all units of a group.

    >>> import jax.numpy as jnp
    >>> from jaxprune.structured import prune, trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    >>> graph = trace(fn, params, jnp.ones((1, 3)))
    >>> print(report(graph, params, prune(graph, params, sparsity=0.5)))
    group                units            left
    in[1]                    8               4
                        before           after           ratio
    parameters              40              20           2.00x
    flops                   80              40           2.00x
    """
    check_graph("structured.report", graph, params)
    no_masks = jax.tree.map(lambda _: None, params)
    removed = removal(graph, masks)
    lost_counts = {group.name: int(removed.classes[group.units].sum()) for group in graph.groups}
    pruned_groups = [group for group in graph.groups if lost_counts[group.name]]
    return Report(
        {group.name: (group.size, group.size - lost_counts[group.name]) for group in pruned_groups},
        tuple(block.name for block in removed.blocks) + _removed_iterations(graph, removed),
        (parameters(graph, params, no_masks), parameters(graph, params, masks)),
        (flops(graph, params, no_masks), flops(graph, params, masks)),
        _measure(graph, params, masks, inputs, repeats) if inputs else None,
        {group.name: group.reason for group in pruned_groups if not group.exact},
    )


def _removed_iterations(graph: Graph, removed: Removal) -> tuple[str, ...]:
    """Returns the names of the blocks that are removed iterations of loops."""
    class_mask = removed.classes & graph.solution.iterations
    if not class_mask.any():
        return ()
    return tuple(
        block.name for block in blocks(graph) if block.unit is not None and class_mask[block.unit]
    )


def _measure(
    graph: Graph, params: Params, masks: Masks, inputs: tuple[Any, ...], repeats: int
) -> tuple[float, float]:
    """Returns the seconds that the dense and the small function take."""
    small = shrink_silently(graph, params, masks)
    run_dense = functools.partial(jax.jit(graph.fn), params, *inputs)
    run_small = functools.partial(jax.jit(small.apply), small.params, *inputs)
    before, after = seconds(run_dense, run_small, repeats=repeats)
    return before, after


def _ratio_row(name: str, figures: Any, form: str) -> tuple[str, ...]:
    before, after = figures
    ratio = f"{before / after:.2f}x" if after else "-"
    return name, format(before, form), format(after, form), ratio
