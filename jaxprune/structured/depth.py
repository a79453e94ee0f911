"""Whole blocks: branches that are added to what they branched off from, and can be left out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.programs.primitives import ADDITIONS
from jaxprune.structured.given import check_graph
from jaxprune.structured.graph import Graph
from jaxprune.structured.replay import Path, watched
from jaxprune.structured.rules import Step
from jaxprune.structured.walk import Loop
from jaxprune.types import Masks, Params

__all__ = ["Block", "blocks", "influence", "left_out", "path_without", "without_blocks"]


class Block(NamedTuple):
    """A residual branch, $x + f(x)$: without $f$ the sum is $x$. Or a turn of a loop over such branches.

    Attributes:
      name: what the paths of its parameters, and no others, begin with, or else the module of the first;
        numbered where several are called alike; of a turn, with the index of its slices: `layers[3]`.
      paths: the parameters that nothing but it reads; of a turn, those that have a slice for each turn.
      added: number of the value that is the sum, or of the first that the loop gives; -1: the loop stands in
        another one.
      skip: which operand of the sum is $x$.
      unit: class of the turn in the graph's solution; `None`: it is a sum.
    """

    name: str
    paths: tuple[str, ...]
    added: int
    skip: int = 0
    unit: int | None = None


def blocks(graph: Graph) -> tuple[Block, ...]:
    r"""Finds the blocks of a function, in the order of its program.

    A sum counts whose one operand the other is computed from, with parameters of its own. Left out, the sum
    is that operand. With all parameters of the branch at zero it is so too, unless the branch is a gate,
    $x \sigma(x w)$, which zeros do not close: `verify` tells.

    Layers under a scan are one program with stacked parameters. If a turn does nothing once its slices are
    zero (what is carried on runs through it with zeros added, and zeros are all it emits), each turn is a
    block. Left out, its slices are cut from the stacks, and the loop is one turn shorter.

    >>> from jaxprune.structured import trace
    >>> def fn(params, x):
    ...     for w in params:
    ...         x = x + jnp.tanh(x @ w)
    ...     return x
    >>> [block.name for block in blocks(trace(fn, [jnp.ones((3, 3))] * 2, jnp.ones((1, 3))))]
    ['0', '1']
    >>> def loop(stack, x):
    ...     return jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, stack["w"])[0]
    >>> [block.name for block in blocks(trace(loop, {"w": jnp.ones((2, 3, 3))}, jnp.ones((1, 3))))]
    ['w[0]', 'w[1]']
    """
    check_graph("structured.blocks", graph)
    both = [*_sums(graph), *_turns(graph)]
    return tuple(_named(sorted(both, key=lambda block: (block.added < 0, block.added))))


def _turns(graph: Graph) -> list[Block]:
    """The blocks that are turns of loops."""
    of, found = graph.solution.of, []
    loops = [step for step in graph.tape.steps if isinstance(step.more, Loop) and step.writes]
    for group in graph.turns:
        own = [s for s in loops if np.isin(of[s.more.turns], group.units).any()]
        added = own[0].writes[0] if own else -1
        paths = tuple(dict.fromkeys(m.path for m in group.members))
        name, index = _prefix(paths, graph.paths), group.members[0].index
        turns = sorted(zip(index[:, 0].tolist(), group.units.tolist(), strict=True))
        if index.shape[1] > 1:  # stacks that are part of a larger axis
            turns = [(i, unit) for i, (_, unit) in enumerate(turns)]
        found += [Block(f"{name}[{i}]", paths, added, unit=unit) for i, unit in turns]
    return found


def _sums(graph: Graph) -> list[Block]:
    """The blocks that are sums."""
    steps = graph.tape.steps
    ancestors: dict[int | None, int] = {None: 0, **{n: 1 << n for n in graph.tape.inputs}}
    for step in steps:
        before = 0
        for number in step.reads:
            before |= ancestors[number]
        for number in step.writes:
            ancestors[number] = before | 1 << number
    whole, found = _needed(graph, {}), []
    for step in steps:
        if step.equation.primitive.name not in ADDITIONS:
            continue
        a, b = ([len(axis) for axis in axes] for axes in step.inputs)
        if None in step.reads or a != b:
            continue
        for skip in (0, 1):
            x, branch = step.reads[skip], step.reads[1 - skip]
            if x == branch or not ancestors[branch] >> x & 1:  # type: ignore[operator]
                continue
            left = _needed(graph, {step.writes[0]: skip})
            own = [
                path
                for path, number in zip(graph.paths, graph.tape.inputs, strict=False)
                if number in whole and number not in left
            ]
            if own and step.writes[0] in whole:
                found.append(Block(_prefix(own, graph.paths), tuple(own), step.writes[0], skip))
            break
    return found


def _prefix(paths: Sequence[str], all_paths: Sequence[str]) -> str:
    """What paths, and no others, have in common, by whole names; or else the first one's module."""
    columns = zip(*(path.split("/") for path in paths), strict=False)
    same = "/".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, columns))
    others = set(all_paths) - set(paths)
    if same and not any(path.startswith(same + "/") for path in others):
        return same
    return paths[0].rpartition("/")[0] or paths[0]


def _named(found: Iterable[Block]) -> list[Block]:
    seen: dict[str, int] = {}
    named = []
    for block in found:
        seen[block.name] = seen.get(block.name, 0) + 1
        again = f" #{seen[block.name]}" if seen[block.name] > 1 else ""
        named.append(block._replace(name=block.name + again))
    return named


def _needed(graph: Graph, passed: Mapping[int, int]) -> set[int]:
    """The values that the outputs need, where some sums are one of their operands alone."""
    needed = {number for number in graph.tape.outputs if number is not None}
    for step in reversed(graph.tape.steps):
        if needed.isdisjoint(step.writes):
            continue
        skip = passed.get(step.writes[0])
        reads = step.reads if skip is None else (step.reads[skip],)
        needed.update(number for number in reads if number is not None)
    return needed


def left_out(
    graph: Graph, empty: Collection[str], silent: Collection[str] = ()
) -> tuple[Block, ...]:
    """The blocks, of those that are sums, of which nothing is left.

    Args:
      graph: of the function.
      empty: paths of the parameters that are masked whole.
      silent: paths of those that keep nothing alive.
    """
    if not empty:
        return ()
    counted = lambda block: set(block.paths) - set(silent)
    found = _named(_sums(graph))
    return tuple(b for b in found if counted(b) and counted(b) <= set(empty))


def path_without(graph: Graph, gone: Iterable[Block]) -> Path:
    """The way through the program that leaves blocks out."""
    passed = {block.added: block.skip for block in gone}
    needed = _needed(graph, passed)
    idle = {s.writes[0] for s in graph.tape.steps if s.writes and needed.isdisjoint(s.writes)}
    return Path(frozenset(idle), passed)


def without_blocks(graph: Graph, names: Collection[str]) -> Masks:
    """The masks of a function without some of its blocks: of what they alone read nothing is left.

    Args:
      graph: of the function.
      names: of `blocks(graph)`.

    Raises:
      ValueError: if there is no such block.
    """
    check_graph("structured.without_blocks", graph)
    names = [names] if isinstance(names, str) else names
    known = {block.name: block for block in blocks(graph)}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"structured.without_blocks: no block {missing[0]!r}; there are: {', '.join(known) or 'none'}."
        )
    chosen = [known[name] for name in names]
    gone = {path for block in chosen if block.unit is None for path in block.paths}
    classes = np.zeros(graph.solution.classes, bool)
    classes[[block.unit for block in chosen if block.unit is not None]] = True
    pairs = zip(graph.paths, graph.alive(classes), strict=True)
    left = [np.zeros_like(mask) if path in gone else mask for path, mask in pairs]
    whole = lambda path, mask: mask.all() and path not in gone
    masks = [
        None if whole(p, m) else jnp.asarray(m) for p, m in zip(graph.paths, left, strict=True)
    ]
    return jax.tree.structure(graph.params).unflatten(masks)


def influence(graph: Graph, params: Params, *inputs: Any) -> dict[str, float]:
    r"""Returns how much each block turns what flows past it: $1 - E \cos(x, x + f(x))$, over the last axis.

    Blocks of the least influence are the first to be left out. Of a turn that several loops make, the largest
    counts. Loops within loops, and those that carry scalars alone, are not measured.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      *inputs: of the shapes that were traced.

    References:
      Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (2024), for
      layers; here for each branch alone.
    """
    check_graph("structured.influence", graph, params)
    found = blocks(graph)
    sums = {block.added: block for block in found if block.unit is None}
    loops = _loops(graph, {block.unit for block in found} - {None})

    @jax.jit
    def turned(params: Params, inputs: Any) -> dict[int, Any]:
        measured = {}

        def watch(step: Step, values: list[Any]) -> list[Any] | None:
            first = step.writes[0] if step.writes else -1
            if first in loops:
                *outputs, measured[first] = _each_turned(step.equation, values)
                return outputs
            if first in sums:
                measured[first] = _turn(values[sums[first].skip], values[0] + values[1])
            return None

        watched(graph.program, jax.tree.leaves((params, inputs)), graph.tape, watch)
        return measured

    values = jax.tree.map(np.asarray, turned(params, inputs))
    by_unit: dict[int, float] = {}
    for first, units in loops.items():
        for unit, value in zip(units.tolist(), values[first].tolist(), strict=True):
            by_unit[unit] = max(value, by_unit.get(unit, 0.0))
    by_sum = {first: float(values[first]) for first in sums}
    every = {b.name: by_sum.get(b.added) if b.unit is None else by_unit.get(b.unit) for b in found}
    return {name: value for name, value in every.items() if value is not None}


def _loops(graph: Graph, units: Collection[int | None]) -> dict[int, np.ndarray]:
    """Of the loops that make some of these turns: the first value written -> the class of each turn."""
    found = {}
    for step in graph.tape.steps:
        if isinstance(step.more, Loop) and step.writes:
            classes = graph.solution.of[step.more.turns]
            fixed, count = programs.count_scan_inputs(step.equation)
            streams = any(v.aval.ndim for v in step.equation.invars[fixed : fixed + count])
            if streams and not set(units).isdisjoint(classes.tolist()):
                found[step.writes[0]] = classes
    return found


def _each_turned(equation: Any, values: list[Any]) -> list[Any]:
    """The outputs of a scan, and behind them how far each turn has turned what it carries on."""
    fixed, count = programs.count_scan_inputs(equation)

    def turn(values: list[Any]) -> list[Any]:
        found = programs.evaluate(equation.params["jaxpr"], values)
        pairs = zip(values[fixed : fixed + count], found[:count], strict=True)
        streams = [(a, b) for a, b in pairs if jnp.ndim(a) and a is not b]
        return [*found, jnp.stack([_turn(a, b) for a, b in streams]).max()]

    return programs.run_scan(equation, values, turn, equation.params["length"])


def _turn(a: jax.Array, b: jax.Array) -> jax.Array:
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    length = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return 1 - jnp.mean(jnp.sum(a * b, -1) / jnp.maximum(length, np.float32(1e-30)))
