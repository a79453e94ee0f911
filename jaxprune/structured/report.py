"""What removing units saves: by group, and of parameters, operations and time."""

import functools
from typing import Any, NamedTuple

import jax

from jaxprune.structured.costs import flops, parameters
from jaxprune.structured.depth import blocks
from jaxprune.structured.given import check_graph
from jaxprune.structured.graph import Graph
from jaxprune.structured.removal import Removal, removal
from jaxprune.structured.shrink import shrink_silently
from jaxprune.structured.timing import seconds
from jaxprune.types import Masks, Params

__all__ = ["Report", "report"]


class Report(NamedTuple):
    """Figures before and after.

    Attributes:
      groups: name -> (units, units left), of the groups that lose some.
      blocks: names of those that are left out.
      parameters, flops: before, after.
      seconds: of the compiled function, before, after; `None` if it was not measured.
      inexact: name -> reason, of the groups that lose some and are not exact: the small function may differ
        from the masked one.
    """

    groups: dict[str, tuple[int, int]]
    blocks: tuple[str, ...]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    seconds: tuple[float, float] | None
    inexact: dict[str, str]

    def __str__(self) -> str:
        rows = [
            ("group", "units", "left"),
            *((n, f"{a:,}", f"{b:,}") for n, (a, b) in self.groups.items()),
        ]
        rows += [(name, "block", "left out") for name in self.blocks]
        rows += [("", "before", "after", "ratio")]
        rows += [_ratio("parameters", self.parameters, ","), _ratio("flops", self.flops, ",")]
        if self.seconds is not None:
            rows.append(_ratio("milliseconds", tuple(1e3 * s for s in self.seconds), ".3f"))
        wide = max(len(row[0]) for row in rows)
        lines = [f"{row[0]:<{wide}}" + "".join(f"  {cell:>14}" for cell in row[1:]) for row in rows]
        lines += [f"not exact: {name}: {reason}" for name, reason in self.inexact.items()]
        return "\n".join(lines)


def report(graph: Graph, params: Params, masks: Masks, *inputs: Any, repeats: int = 10) -> Report:
    """Returns what is left, and what that saves.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      masks: constant along the graph's groups.
      *inputs: of the function, to measure its time with; none: the time is not measured.
      repeats: runs, of which the fastest counts.

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
    whole = jax.tree.map(lambda _: None, params)
    gone = removal(graph, masks)
    lost = {group.name: int(gone.classes[group.units].sum()) for group in graph.groups}
    sizes = {group.name: group.size for group in graph.groups}
    both = lambda cost: (cost(graph, params, whole), cost(graph, params, masks))
    return Report(
        {name: (sizes[name], sizes[name] - n) for name, n in lost.items() if n},
        tuple(block.name for block in gone.blocks) + _turns(graph, gone),
        both(parameters),
        both(flops),
        _measured(graph, params, masks, inputs, repeats) if inputs else None,
        {g.name: g.reason for g in graph.groups if lost[g.name] and not g.exact},
    )


def _turns(graph: Graph, gone: Removal) -> tuple[str, ...]:
    left_out = gone.classes & graph.solution.iterations
    if not left_out.any():
        return ()
    return tuple(b.name for b in blocks(graph) if b.unit is not None and left_out[b.unit])


def _measured(
    graph: Graph, params: Params, masks: Masks, inputs: tuple[Any, ...], repeats: int
) -> tuple[float, float]:
    small = shrink_silently(graph, params, masks)
    whole = functools.partial(jax.jit(graph.fn), params, *inputs)
    before, after = seconds(
        whole, functools.partial(jax.jit(small.apply), small.params, *inputs), repeats=repeats
    )
    return before, after


def _ratio(name: str, pair: Any, form: str) -> tuple[str, ...]:
    before, after = pair
    return (
        name,
        format(before, form),
        format(after, form),
        f"{before / after:.2f}x" if after else "-",
    )
