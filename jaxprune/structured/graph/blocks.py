"""Blocks: residual branches, and iterations of loops over them, that can be left out as a whole."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.programs.primitives import ADDITIONS
from jaxprune.structured.graph.follow import Loop
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.structured.graph.replay import Path, watched
from jaxprune.structured.graph.rules import Step
from jaxprune.types import Masks, Params

__all__ = ["Block", "blocks", "empty_blocks", "influence", "path_without", "without_blocks"]


class Block(NamedTuple):
    """A residual branch, $x + f(x)$: without $f$ the sum is $x$. Or an iteration of a loop of such branches.

    Attributes:
      name: what the paths of its parameters, and no others, begin with, or else the module of the first;
        numbered where several are called alike; of an iteration, with the index of its slices: `layers[3]`.
      paths: the parameters that nothing but it reads; of an iteration, those with a slice for each iteration.
      added: index of the value that is the sum, or of the first output of the loop; -1: the loop stands in
        another one.
      skip: which operand of the sum is $x$.
      unit: class of the iteration in the graph's solution; `None`: it is a sum.
    """

    name: str
    paths: tuple[str, ...]
    added: int
    skip: int = 0
    unit: int | None = None


def blocks(graph: Graph) -> tuple[Block, ...]:
    r"""Returns the blocks of a function, in the order of its program.

    A block is a branch of a sum: one operand, $x$, is what the other, $f(x)$, is computed from, with
    parameters of its own. With the branch left out, the sum is $x$. With all parameters of the branch at zero
    it is so too, unless the branch is a gate, $x \sigma(x w)$, which zeros do not close: `verify` tells.

    Layers under a scan are one program with stacked parameters. If an iteration does nothing once its slices
    are zero (what is carried on runs through it with zeros added, and zeros are all it emits), each iteration
    is a block. Left out, its slices are cut from the stacks, and the loop is one iteration shorter.

    Args:
      graph: of the function, from `trace`.

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
    unnamed_blocks = [*_sum_blocks(graph), *_iteration_blocks(graph)]
    return tuple(
        _with_unique_names(sorted(unnamed_blocks, key=lambda block: (block.added < 0, block.added)))
    )


def _iteration_blocks(graph: Graph) -> list[Block]:
    """Returns the blocks that are iterations of loops."""
    class_of = graph.solution.class_of
    iteration_blocks: list[Block] = []
    loop_steps = [step for step in graph.tape.steps if isinstance(step.more, Loop) and step.writes]
    for group in graph.iterations:
        group_loops = [
            step
            for step in loop_steps
            if np.isin(class_of[step.more.iterations], group.units).any()
        ]
        added = group_loops[0].writes[0] if group_loops else -1
        paths = tuple(dict.fromkeys(member.path for member in group.members))
        name = _prefix(paths, graph.paths)
        slice_indices = group.members[0].index
        units = sorted(zip(slice_indices[:, 0].tolist(), group.units.tolist(), strict=True))
        if slice_indices.shape[1] > 1:  # stacks that are part of a larger axis
            units = [(iteration, unit) for iteration, (_, unit) in enumerate(units)]
        iteration_blocks += [
            Block(f"{name}[{iteration}]", paths, added, unit=unit) for iteration, unit in units
        ]
    return iteration_blocks


def _sum_blocks(graph: Graph) -> list[Block]:
    """Returns the blocks that are branches of sums."""
    steps = graph.tape.steps
    # Of each value, those it is computed from, itself too: a set of indices as the bits of an integer.
    ancestors: dict[int | None, int] = {
        None: 0,
        **{value_index: 1 << value_index for value_index in graph.tape.inputs},
    }
    for step in steps:
        read_ancestors = 0
        for value_index in step.reads:
            read_ancestors |= ancestors[value_index]
        for value_index in step.writes:
            ancestors[value_index] = read_ancestors | 1 << value_index
    needed = _needed_values(graph, {})
    sum_blocks: list[Block] = []
    for step in steps:
        if step.equation.primitive.name not in ADDITIONS:
            continue
        left_shape, right_shape = ([len(axis) for axis in axes] for axes in step.inputs)
        if None in step.reads or left_shape != right_shape:
            continue
        for skip in (0, 1):
            skip_value = step.reads[skip]
            branch_value = step.reads[1 - skip]
            is_ancestor = ancestors[branch_value] >> skip_value & 1  # type: ignore[operator]
            if skip_value == branch_value or not is_ancestor:
                continue
            needed_without = _needed_values(graph, {step.writes[0]: skip})
            paths = [
                path
                for path, value_index in zip(graph.paths, graph.tape.inputs, strict=False)
                if value_index in needed and value_index not in needed_without
            ]
            if paths and step.writes[0] in needed:
                name = _prefix(paths, graph.paths)
                sum_blocks.append(Block(name, tuple(paths), step.writes[0], skip))
            break
    return sum_blocks


def _prefix(paths: Sequence[str], all_paths: Sequence[str]) -> str:
    """Returns what paths, and no others, begin with, in whole names; or else the first one's module."""
    columns = zip(*(path.split("/") for path in paths), strict=False)
    equal_columns = takewhile(lambda column: len(set(column)) == 1, columns)
    common_prefix = "/".join(column[0] for column in equal_columns)
    other_paths = set(all_paths) - set(paths)
    if common_prefix and not any(path.startswith(common_prefix + "/") for path in other_paths):
        return common_prefix
    return paths[0].rpartition("/")[0] or paths[0]


def _with_unique_names(unnamed_blocks: Iterable[Block]) -> list[Block]:
    """Returns the blocks, those that are called alike with numbers behind their names."""
    name_counts: dict[str, int] = {}
    named_blocks = []
    for block in unnamed_blocks:
        name_counts[block.name] = name_counts.get(block.name, 0) + 1
        suffix = f" #{name_counts[block.name]}" if name_counts[block.name] > 1 else ""
        named_blocks.append(block._replace(name=block.name + suffix))
    return named_blocks


def _needed_values(graph: Graph, skipped_sums: Mapping[int, int]) -> set[int]:
    """Returns the values that the outputs need.

    Args:
      graph: of the function.
      skipped_sums: value that is a sum -> index of the operand that is taken for it.
    """
    needed_values = {value_index for value_index in graph.tape.outputs if value_index is not None}
    for step in reversed(graph.tape.steps):
        if needed_values.isdisjoint(step.writes):
            continue
        skip = skipped_sums.get(step.writes[0])
        reads = step.reads if skip is None else (step.reads[skip],)
        needed_values.update(value_index for value_index in reads if value_index is not None)
    return needed_values


def empty_blocks(
    graph: Graph, empty: Collection[str], silent: Collection[str] = ()
) -> tuple[Block, ...]:
    """Returns the blocks, of those that are branches of sums, of which nothing is left.

    Args:
      graph: of the function.
      empty: paths of the parameters that are masked whole.
      silent: paths of those that keep nothing alive.
    """
    if not empty:
        return ()

    def is_empty(block: Block) -> bool:
        counted_paths = set(block.paths) - set(silent)
        return bool(counted_paths) and counted_paths <= set(empty)

    return tuple(block for block in _with_unique_names(_sum_blocks(graph)) if is_empty(block))


def path_without(graph: Graph, removed_blocks: Iterable[Block]) -> Path:
    """Returns the way through the program that leaves blocks out."""
    skipped_sums = {block.added: block.skip for block in removed_blocks}
    needed_values = _needed_values(graph, skipped_sums)
    idle_values = {
        step.writes[0]
        for step in graph.tape.steps
        if step.writes and needed_values.isdisjoint(step.writes)
    }
    return Path(frozenset(idle_values), skipped_sums)


def without_blocks(graph: Graph, names: Collection[str]) -> Masks:
    """Returns the masks of a function without some of its blocks: parameters that they alone read are masked.

    Args:
      graph: of the function, from `trace`.
      names: one name, or several, of `blocks(graph)`.

    Returns:
      A tree like the parameters: `None` for leaves that stay whole.

    Raises:
      ValueError: if there is no such block.

    >>> from jaxprune.structured import trace
    >>> def fn(params, x):
    ...     for w in params:
    ...         x = x + jnp.tanh(x @ w)
    ...     return x
    >>> without_blocks(trace(fn, [jnp.ones((1, 1))] * 2, jnp.ones((1, 1))), "1")
    [None, Array([[False]], dtype=bool)]
    """
    check_graph("structured.without_blocks", graph)
    names = [names] if isinstance(names, str) else names
    block_of = {block.name: block for block in blocks(graph)}
    unknown_names = [name for name in names if name not in block_of]
    if unknown_names:
        raise ValueError(
            f"structured.without_blocks: no block {unknown_names[0]!r}; there are: "
            f"{', '.join(block_of) or 'none'}."
        )
    removed_blocks = [block_of[name] for name in names]
    removed_paths = {path for block in removed_blocks if block.unit is None for path in block.paths}
    removed_classes = np.zeros(graph.solution.class_count, bool)
    removed_classes[[block.unit for block in removed_blocks if block.unit is not None]] = True
    masks = []
    for path, mask in zip(graph.paths, graph.alive(removed_classes), strict=True):
        if path in removed_paths:
            masks.append(jnp.asarray(np.zeros_like(mask)))
        else:
            masks.append(None if mask.all() else jnp.asarray(mask))
    return jax.tree.structure(graph.params).unflatten(masks)


def influence(graph: Graph, params: Params, *inputs: Any) -> dict[str, float]:
    r"""Returns how much each block rotates what flows past it: $1 - E \cos(x, x + f(x))$, over the last axis.

    Blocks of the least influence are the first to be left out. Of an iteration that several loops make, the
    largest counts. Loops within loops, and those that carry scalars alone, are not measured.

    Args:
      graph: of the function, from `trace`.
      params: tree of arrays, as it was traced.
      *inputs: of the shapes that were traced.

    Returns:
      A dict from the name of a block to its influence, between 0 (nothing happens) and 2.

    References:
      Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (2024), for
      layers; here for each branch alone.

    >>> from jaxprune.structured import trace
    >>> params, x = {"w": jnp.array([[0.0, 1.0], [0.0, 0.0]])}, jnp.array([[1.0, 0.0]])
    >>> fn = lambda p, x: x + x @ p["w"]  # from [1, 0] to [1, 1]: 45 degrees
    >>> {name: round(value, 3) for name, value in influence(trace(fn, params, x), params, x).items()}
    {'w': 0.293}
    """
    check_graph("structured.influence", graph, params)
    all_blocks = blocks(graph)
    block_of_sum = {block.added: block for block in all_blocks if block.unit is None}
    units_of_loop = _loop_units(graph, {block.unit for block in all_blocks} - {None})

    @jax.jit
    def measure(params: Params, inputs: Any) -> dict[int, Any]:
        rotations = {}

        def watch(step: Step, values: list[Any]) -> list[Any] | None:
            value_index = step.writes[0] if step.writes else -1
            if value_index in units_of_loop:
                *outputs, rotations[value_index] = _run_and_measure(step.equation, values)
                return outputs
            if value_index in block_of_sum:
                skip = block_of_sum[value_index].skip
                rotations[value_index] = _rotation(values[skip], values[0] + values[1])
            return None

        watched(graph.program, jax.tree.leaves((params, inputs)), graph.tape, watch)
        return rotations

    rotations = jax.tree.map(np.asarray, measure(params, inputs))
    by_unit: dict[int, float] = {}
    for value_index, units in units_of_loop.items():
        for unit, rotation in zip(units.tolist(), rotations[value_index].tolist(), strict=True):
            by_unit[unit] = max(rotation, by_unit.get(unit, 0.0))
    by_sum = {value_index: float(rotations[value_index]) for value_index in block_of_sum}
    by_name = {
        block.name: by_sum.get(block.added) if block.unit is None else by_unit.get(block.unit)
        for block in all_blocks
    }
    return {name: rotation for name, rotation in by_name.items() if rotation is not None}


def _loop_units(graph: Graph, units: Collection[int | None]) -> dict[int, np.ndarray]:
    """Returns, of loops that make some units, the first value written -> the class of each iteration."""
    units_of_loop = {}
    for step in graph.tape.steps:
        if isinstance(step.more, Loop) and step.writes:
            classes = graph.solution.class_of[step.more.iterations]
            constant_count, carry_count = programs.count_scan_inputs(step.equation)
            carry = step.equation.invars[constant_count : constant_count + carry_count]
            carries_arrays = any(variable.aval.ndim for variable in carry)
            if carries_arrays and not set(units).isdisjoint(classes.tolist()):
                units_of_loop[step.writes[0]] = classes
    return units_of_loop


def _run_and_measure(equation: Any, values: list[Any]) -> list[Any]:
    """Returns the outputs of a scan, and behind them how far each iteration rotates what it carries on."""
    constant_count, carry_count = programs.count_scan_inputs(equation)

    def run_iteration(values: list[Any]) -> list[Any]:
        outputs = programs.evaluate(equation.params["jaxpr"], values)
        carry = values[constant_count : constant_count + carry_count]
        pairs = zip(carry, outputs[:carry_count], strict=True)
        streams = [
            (before, after) for before, after in pairs if jnp.ndim(before) and before is not after
        ]
        rotations = jnp.stack([_rotation(before, after) for before, after in streams])
        return [*outputs, rotations.max()]

    return programs.run_scan(equation, values, run_iteration, equation.params["length"])


def _rotation(before: jax.Array, after: jax.Array) -> jax.Array:
    """Returns one minus the mean cosine between two arrays, along the last axis."""
    before = before.astype(jnp.float32)
    after = after.astype(jnp.float32)
    norm_product = jnp.linalg.norm(before, axis=-1) * jnp.linalg.norm(after, axis=-1)
    return 1 - jnp.mean(jnp.sum(before * after, -1) / jnp.maximum(norm_product, np.float32(1e-30)))
