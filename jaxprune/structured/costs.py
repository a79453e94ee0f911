"""What a function costs once masked units are gone: (graph, params, masks) -> a number."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax

from jaxprune import checks
from jaxprune.programs.contractions import multiplications
from jaxprune.structured.depth import path_without
from jaxprune.structured.given import check_graph
from jaxprune.structured.graph import Graph
from jaxprune.structured.removal import removal
from jaxprune.structured.rules.rule import Kept, left
from jaxprune.structured.shrink import shrink_silently
from jaxprune.structured.timing import seconds
from jaxprune.structured.walk import Loop, Tape, tapes_within
from jaxprune.types import Masks, Params

__all__ = ["Cost", "flops", "latency", "parameters"]

Cost = Callable[[Graph, Params, Masks], float]


def parameters(graph: Graph, params: Params, masks: Masks) -> int:
    """The number of parameters that are left.

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
    kept = removal(graph, masks).kept(graph)
    return sum(math.prod(int(axis.sum()) for axis in axes) for axes in kept)


def flops(graph: Graph, params: Params, masks: Masks) -> int:
    """The operations that are left in products, on the inputs of the trace: two per multiplication.

    Matrix products and convolutions count, those within loops as often as they are made, of the branches of a
    condition those of the costliest; element-wise operations do not. A convolution's padding counts as if it
    were there. For the whole network it is what `jaxprune.metrics.total_flops` counts.
    """
    check_graph("structured.flops", graph, params)
    gone = removal(graph, masks)
    alive, of = graph.solution.kept(gone.classes), graph.solution.class_of
    path, kept = path_without(graph, gone.blocks), lambda labels: alive[of[labels]]
    used = [step for step in graph.tape.steps if not step.writes or step.writes[0] not in path.idle]
    tape = graph.tape._replace(steps=used)
    return 2 * _multiplications(tape, kept)


def _multiplications(tape: Tape, kept: Kept) -> int:
    """Of the branches of a condition, those of the costliest; a loop without a known end is one iteration."""
    total = 0
    for step in tape.steps:
        inner = [_multiplications(own, kept) for own in tapes_within(step)]
        if isinstance(step.more, Loop):
            total += int(kept(step.more.iterations).sum()) * inner[0]
        elif step.equation.primitive.name == "cond":
            total += max(inner)
        else:
            operands = [left(axes, kept) for axes in step.inputs]
            output = left(step.outputs[0], kept) if step.outputs else ()
            total += sum(inner) + multiplications(step.equation, operands, output)
    return total


def latency(*inputs: Any, repeats: int = 10) -> Cost:
    """The time that the shrunk function takes, compiled, in seconds: the least of several runs.

    It is measured on this machine, for these inputs, each time it is asked for; that costs a compilation.

    Args:
      *inputs: of the function.
      repeats: runs.
    """

    _check_repeats("latency", repeats)

    def measured(graph: Graph, params: Params, masks: Masks) -> float:
        small = shrink_silently(graph, params, masks)
        run = functools.partial(jax.jit(small.apply), small.params, *inputs)
        return seconds(run, repeats=repeats)[0]

    return measured


def _check_repeats(who: str, repeats: int) -> None:
    """Refuses what is no number of runs."""
    checks.check(f"structured.{who}", repeats=(repeats, checks.INTEGER))
    if repeats < 1:
        raise ValueError(f"structured.{who}(repeats={repeats}): at least 1 is needed.")
