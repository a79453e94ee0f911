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
      graph: graph of the function, from `trace`.
      params: tree of arrays, with the structure and shapes that were traced.
      masks: tree like `params` of bool arrays, `None` at leaves without a mask.

    Returns:
      The number of elements of all leaves of the smaller tree, an integer. Single masked weights in these
      leaves count too.

    Raises:
      TypeError: if `graph` is not a graph, or `params` is not a tree of arrays.
      ValueError: if masks have other leaves than the parameters, or would remove all units of a group.

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
    """Returns the operations in products once masked units and blocks are removed, for the traced inputs.

    Matrix products and convolutions are counted, two operations per multiplication: in a loop once per
    iteration, in a condition those of the costliest branch. Products with a convolution's padding are
    counted; element-wise operations are not. Without masks the result is that of
    `jaxprune.metrics.total_flops`.

    Args:
      graph: graph of the function, from `trace`.
      params: tree of arrays, with the structure and shapes that were traced.
      masks: tree like `params` of bool arrays, `None` at leaves without a mask.

    Returns:
      The number of operations of the smaller function. Single masked weights count too.

    Raises:
      TypeError: if `graph` is not a graph, or `params` is not a tree of arrays.
      ValueError: if masks have other leaves than the parameters, or would remove all units of a group.

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
    """Returns a cost function: the time of the compiled smaller function, in seconds.

    Each call compiles the smaller function and measures it on this machine, with these inputs.

    Args:
      *inputs: inputs of the function, after the parameters.
      repeats: number of measured runs, at least 1; the fastest counts.

    Returns:
      (graph, params, masks) -> seconds.

    Raises:
      ValueError: if `repeats` is less than 1.

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
