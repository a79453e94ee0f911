"""Costs of a function once masked units are removed: (graph, params, masks) -> a number."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from jaxprune import checks
from jaxprune.metrics.timing import seconds
from jaxprune.programs.contractions import multiplications
from jaxprune.structured.graph.blocks import path_without
from jaxprune.structured.graph.follow import Loop, Tape, tapes_within
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.structured.graph.rules.rule import Kept, left
from jaxprune.structured.shrinking.removal import removal
from jaxprune.structured.shrinking.shrink import shrink_silently
from jaxprune.types import Masks, Params

__all__ = ["Cost", "flops", "latency", "parameters"]

Cost = Callable[[Graph, Params, Masks], float]


def parameters(graph: Graph, params: Params, masks: Masks) -> int:
    """Returns the number of parameters that are left once masked units and blocks are removed.

    Args:
      graph: of the function, from `trace`.
      params: tree of arrays, with the structure and shapes that were traced.
      masks: bool arrays, `None` at leaves without a mask.

    Returns:
      Elements of all leaves of the smaller tree, whether or not single weights in them are masked.

    Raises:
      TypeError: if `graph` is no graph, or `params` no tree of arrays.
      ValueError: if masks have other leaves than the parameters, or would leave no unit of a group.

    >>> import jax.numpy as jnp
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    >>> graph = trace(fn, params, jnp.ones((1, 3)))
    >>> half = {"in": jnp.arange(24).reshape(3, 8) % 8 < 4, "out": None}
    >>> parameters(graph, params, half), parameters(graph, params, {"in": None, "out": None})
    (40, 40)
    """
    check_graph("structured.parameters", graph, params)
    kept_masks = removal(graph, masks).kept(graph)
    return sum(math.prod(int(axis.sum()) for axis in leaf_axes) for leaf_axes in kept_masks)


def flops(graph: Graph, params: Params, masks: Masks) -> int:
    """Returns the operations that are left in products, two per multiplication, on the traced inputs.

    Matrix products and convolutions count: those of a loop once per iteration, of the branches of a
    condition those of the costliest. Element-wise operations do not count. Products with a convolution's
    padding do. For the whole network it is what `jaxprune.metrics.total_flops` counts.

    Args:
      graph: of the function, from `trace`.
      params: tree of arrays, with the structure and shapes that were traced.
      masks: bool arrays, `None` at leaves without a mask.

    Returns:
      Operations of the smaller function, whether or not single weights are masked.

    Raises:
      TypeError: if `graph` is no graph, or `params` no tree of arrays.
      ValueError: if masks have other leaves than the parameters, or would leave no unit of a group.

    >>> import jax.numpy as jnp
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    >>> graph = trace(fn, params, jnp.ones((1, 3)))
    >>> flops(graph, params, {"in": None, "out": None})  # 2 (3 8 + 8 2)
    80
    """
    check_graph("structured.flops", graph, params)
    removed = removal(graph, masks)
    class_mask = graph.solution.kept(removed.classes)
    class_of = graph.solution.class_of
    path = path_without(graph, removed.blocks)
    steps = [
        step for step in graph.tape.steps if not step.writes or step.writes[0] not in path.idle
    ]
    tape = graph.tape._replace(steps=steps)
    return 2 * _multiplications(tape, lambda labels: class_mask[class_of[labels]])


def _multiplications(tape: Tape, kept: Kept) -> int:
    """Returns the multiplications of products that are left.

    Of the branches of a condition the costliest counts; of a loop without a known end, one iteration.
    """
    total = 0
    for step in tape.steps:
        inner_counts = [_multiplications(inner_tape, kept) for inner_tape in tapes_within(step)]
        if isinstance(step.more, Loop):
            total += int(kept(step.more.iterations).sum()) * inner_counts[0]
        elif step.equation.primitive.name == "cond":
            total += max(inner_counts)
        else:
            operand_shapes = [left(axes, kept) for axes in step.inputs]
            output_shape = left(step.outputs[0], kept) if step.outputs else ()
            own_count = multiplications(step.equation, operand_shapes, output_shape)
            total += sum(inner_counts) + own_count
    return total


def latency(*inputs: Any, repeats: int = 10) -> Cost:
    """Returns a cost: the time that the compiled small function takes, in seconds.

    It is measured on this machine, for these inputs, each time it is asked for; that costs a compilation.

    Args:
      *inputs: of the function.
      repeats: measured runs, of which the fastest counts.

    Returns:
      (graph, params, masks) -> seconds.

    Raises:
      ValueError: if there are no runs.

    >>> import jax.numpy as jnp
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: x @ p["w"]
    >>> params = {"w": jnp.ones((3, 2))}
    >>> cost = latency(jnp.ones((1, 3)), repeats=1)
    >>> cost(trace(fn, params, jnp.ones((1, 3))), params, {"w": jnp.ones((3, 2), bool)}) > 0
    True
    """
    _check_repeats("latency", repeats)

    def measure(graph: Graph, params: Params, masks: Masks) -> float:
        small = shrink_silently(graph, params, masks)
        run = functools.partial(jax.jit(small.apply), small.params, *inputs)
        return seconds(run, repeats=repeats)[0]

    return measure


def _check_repeats(who: str, repeats: int) -> None:
    """Raises unless `repeats` is an integer of 1 or more."""
    checks.check(f"structured.{who}", repeats=(repeats, checks.INTEGER))
    if repeats < 1:
        raise ValueError(f"structured.{who}(repeats={repeats}): at least 1 is needed.")
