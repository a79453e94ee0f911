"""Replays the programs within equations: loops, conditions, what each device does, solvers.

What is not zero in removed places passes through them as it is, or is lost.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune import programs
from jaxprune.structured.graph.follow import Tape
from jaxprune.structured.graph.labels import AxisLabels
from jaxprune.structured.graph.remainders import Lost, Places, Value
from jaxprune.structured.graph.remainders.values import Region, is_number
from jaxprune.structured.graph.rules import Step

__all__ = ["BODIES", "Replay", "shape_of"]


class Replay(Protocol):
    """What a program that is run again (`structured.graph.replay`) offers to equations with programs."""

    @property
    def places(self) -> Places:
        """Which indices of labelled axes are left."""
        ...

    @property
    def computes(self) -> bool:
        """Whether values hold arrays; else they hold shapes only."""
        ...

    def quiet(self) -> "Replay":
        """Returns a run that tells no leaks."""
        ...

    def shapes_within(
        self, program: Any, inputs: Sequence[Value], tape: Tape, axes: Sequence[AxisLabels]
    ) -> list[Value]:
        """Returns the outputs of a program within the program, on shapes alone; leaks are told."""
        ...

    def arrays_within(
        self, program: Any, inputs: Sequence[Value], tape: Tape, axes: Sequence[AxisLabels]
    ) -> tuple[Any, ...]:
        """Returns the arrays that a program within the program gives."""
        ...

    def outputs_of(self, operands: list[Value], step: Step) -> list[Any]:
        """Returns what an equation makes of what is left, or the shapes of that."""
        ...


_IN_A_LOOP = "a loop changes what removed units leave behind"


def _number_or_lost(content: Any) -> Any:
    """Returns what can be told of a remainder outside a program: a number, or that it is lost."""
    return content if is_number(content) or isinstance(content, Lost) else Lost(_IN_A_LOOP)


def _shared_remainders(first: Value, second: Value) -> dict[Region, Any]:
    """Returns the remainders that two values have in common; others are lost."""
    shared: dict[Region, Any] = {}
    for region in first.remainders.keys() | second.remainders.keys():
        contents = (first.remainders.get(region), second.remainders.get(region))
        a, b = contents
        if a is b or (is_number(a) and is_number(b) and a == b):
            shared[region] = a
        elif region:
            shared[region] = next((c for c in contents if isinstance(c, Lost)), Lost(_IN_A_LOOP))
    return shared


def _settle_carried(
    run: Replay,
    program: Any,
    loop_inputs: list[Value],
    carry_slice: slice,
    tape: Tape,
    axes: Sequence[AxisLabels],
) -> list[Value]:
    """Returns a loop's inputs with the remainders that hold in all of its iterations.

    A remainder of a carried value holds if the program leaves it as it found it. Fewer remainders going in
    may change those coming out, so the program is followed until nothing changes.
    """
    quiet = run.quiet()
    start = carry_slice.start or 0
    while True:
        body_outputs = quiet.shapes_within(program, loop_inputs, tape, axes)
        changed = False
        for index, after in zip(range(start, carry_slice.stop), body_outputs, strict=False):
            before = loop_inputs[index]
            common = _shared_remainders(before, after)
            settled_value = before._replace(
                remainders=common, positive=before.positive and after.positive
            )
            is_same = common.keys() == before.remainders.keys() and all(
                common[region] is before.remainders[region] or is_number(common[region])
                for region in common
            )
            if not is_same or settled_value.positive != before.positive:
                loop_inputs[index] = settled_value
                changed = True
        if not changed:
            return loop_inputs


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape and type of an array, or of a shape."""
    return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype)


def _with_arrays(arrays: Sequence[Any], values: Sequence[Value]) -> list[Value]:
    """Returns values with other arrays, and their own remainders."""
    return [value._replace(array=array) for array, value in zip(arrays, values, strict=True)]


def _replay_scan(run: Replay, equation: Any, values: list[Value], step: Step) -> list[Value]:
    """Runs a scan over what is left; removed iterations are not run."""
    program = equation.params["jaxpr"]
    tape, iteration_labels = step.more
    constant_count, carry_count = programs.count_scan_inputs(equation)
    row_start = constant_count + carry_count
    rows = [_row_of(value) for value in values[row_start:]]
    carry_slice = slice(constant_count, row_start)
    row_axes = [stack_axes[1:] for stack_axes in step.outputs[carry_count:]]
    axes = [*step.outputs[:carry_count], *row_axes]
    loop_inputs = _settle_carried(
        run, program, [*values[:row_start], *rows], carry_slice, tape, axes
    )
    body_outputs = run.shapes_within(program, loop_inputs, tape, axes)
    length = int(run.places(iteration_labels).sum())
    emitted_stacks = [_stack_of(value, length) for value in body_outputs[carry_count:]]
    outputs = [*loop_inputs[carry_slice], *emitted_stacks]
    if not run.computes:
        return outputs

    def iteration(arrays: list[Any]) -> list[Any]:
        return list(run.arrays_within(program, _with_arrays(arrays, loop_inputs), tape, axes))

    arrays = programs.run_scan(equation, [value.array for value in values], iteration, length)
    return _with_arrays(arrays, outputs)


def _row_of(stack: Value) -> Value:
    """Returns the shape of what a scan takes of a stack in each iteration; removed ones do not run."""
    shape = jax.ShapeDtypeStruct(stack.array.shape[1:], stack.array.dtype)
    remainders = {
        frozenset(axis - 1 for axis in region): _number_or_lost(content)
        for region, content in stack.remainders.items()
        if 0 not in region
    }
    return Value(shape, remainders, stack.positive)


def _stack_of(row: Value, length: int) -> Value:
    """Returns the shape of what a scan emits in all of its iterations."""
    remainders = {
        frozenset(axis + 1 for axis in region): _number_or_lost(content)
        for region, content in row.remainders.items()
    }
    shape = jax.ShapeDtypeStruct((length, *jnp.shape(row.array)), row.array.dtype)
    return Value(shape, remainders, row.positive)


def _replay_cond(run: Replay, equation: Any, values: list[Value], step: Step) -> list[Value]:
    """Runs a condition; remainders in which its branches differ are lost."""
    branches = list(zip(equation.params["branches"], step.more, strict=True))
    operands = values[1:]
    outputs_by_branch = [
        run.shapes_within(branch, operands, tape, step.outputs) for branch, tape in branches
    ]
    outputs = outputs_by_branch[0]
    for other_outputs in outputs_by_branch[1:]:
        outputs = [
            a._replace(remainders=_shared_remainders(a, b), positive=a.positive and b.positive)
            for a, b in zip(outputs, other_outputs, strict=True)
        ]
    outputs = _without_inner_arrays(outputs, operands)
    if not run.computes:
        return outputs

    def runner(branch: Any, tape: Tape) -> Callable[..., tuple[Any, ...]]:
        def run_branch(*arrays: Any) -> tuple[Any, ...]:
            return run.arrays_within(branch, _with_arrays(arrays, operands), tape, step.outputs)

        return run_branch

    runners = [runner(branch, tape) for branch, tape in branches]
    arrays = lax.switch(values[0].array, runners, *(value.array for value in operands))
    return _with_arrays(arrays, outputs)


def _without_inner_arrays(values: list[Value], outer: Sequence[Value]) -> list[Value]:
    """Returns values without remainders that are arrays of an inner program: these are lost outside.

    Args:
      values: of the inner program.
      outer: values outside; arrays among their remainders are known there.
    """
    outer_ids = {id(content) for value in outer for content in value.remainders.values()}

    def told(remainders: Mapping[Region, Any]) -> dict[Region, Any]:
        return {
            region: content if id(content) in outer_ids else _number_or_lost(content)
            for region, content in remainders.items()
        }

    return [value._replace(remainders=told(value.remainders)) for value in values]


def _replay_while(run: Replay, equation: Any, values: list[Value], step: Step) -> list[Value]:
    """Runs a while loop on what is left of its carried values and constants."""
    params = equation.params
    test = params["cond_jaxpr"]
    body = params["body_jaxpr"]
    test_tape, body_tape = step.more
    body_start = params["cond_nconsts"]
    carry_start = body_start + params["body_nconsts"]
    axes = step.inputs[carry_start:]
    flag_axes = [axes[0][: test.out_avals[0].ndim] if axes else ()]
    carry_slice = slice(carry_start - body_start, len(values) - body_start)
    loop_inputs = _settle_carried(run, body, values[body_start:], carry_slice, body_tape, axes)
    carry = loop_inputs[carry_start - body_start :]
    body_constants = loop_inputs[: carry_start - body_start]
    test_constants = values[:body_start]
    run.shapes_within(test, [*test_constants, *carry], test_tape, flag_axes)
    run.shapes_within(body, loop_inputs, body_tape, axes)
    if not run.computes:
        return carry

    def goes_on(arrays: Sequence[Any]) -> Any:
        inputs = [*test_constants, *_with_arrays(arrays, carry)]
        [flag] = run.arrays_within(test, inputs, test_tape, flag_axes)
        return flag

    def iteration(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs = [*body_constants, *_with_arrays(arrays, carry)]
        outputs = run.arrays_within(body, inputs, body_tape, axes)
        flag = goes_on(arrays)
        if not flag.ndim:
            return outputs

        # Under vmap each example has an end of its own, and stands still from then on.
        def chosen(new: Any, old: Any) -> Any:
            return jnp.where(lax.broadcast_in_dim(flag, new.shape, range(flag.ndim)), new, old)

        return tuple(chosen(new, old) for new, old in zip(outputs, arrays, strict=True))

    start = tuple(value.array for value in carry)
    end = lax.while_loop(lambda arrays: goes_on(arrays).any(), iteration, start)
    return _with_arrays(end, carry)


def _replay_shard_map(run: Replay, equation: Any, values: list[Value], step: Step) -> list[Value]:
    """Runs a program on each device, on its part of what is left."""
    params = equation.params
    program = params["jaxpr"]
    [tape] = step.more
    device_inputs = _without_inner_arrays(values, ())  # arrays of the whole are none of each device
    shapes = [
        _shape_on_each_device(value.array, axes, variable.aval)
        for value, axes, variable in zip(values, step.inputs, program.invars, strict=True)
    ]
    device_outputs = run.shapes_within(
        program, _with_arrays(shapes, device_inputs), tape, step.outputs
    )
    outputs = _without_inner_arrays(device_outputs, ())
    if not run.computes:
        return _with_arrays(run.outputs_of(values, step), outputs)

    def run_on_device(*arrays: Any) -> tuple[Any, ...]:
        return run.arrays_within(program, _with_arrays(arrays, device_inputs), tape, step.outputs)

    options: Any = {"mesh": params["mesh"], "axis_names": set(params["newly_manual_axes"])}
    options |= {"in_specs": tuple(params["in_specs"]), "out_specs": tuple(params["out_specs"])}
    run_sharded = jax.shard_map(run_on_device, check_vma=params["check_vma"], **options)
    return _with_arrays(run_sharded(*(value.array for value in values)), outputs)


def _shape_on_each_device(array: Any, axes: AxisLabels, aval: Any) -> jax.ShapeDtypeStruct:
    """Returns the shape that each device has of an array: axes that are not divided have what is left.

    Args:
      array: what is left of it, or its shape.
      axes: labels of the whole array.
      aval: of the whole array, on each device.
    """
    sizes = zip(jnp.shape(array), axes, aval.shape, strict=True)
    shape = tuple(
        kept_size if len(axis) == device_size else device_size
        for kept_size, axis, device_size in sizes
    )
    return jax.ShapeDtypeStruct(shape, aval.dtype)


def _replay_linear_solve(
    run: Replay, equation: Any, values: list[Value], step: Step
) -> list[Value]:
    """Runs a solver so that gradients go by the equation that is solved, not through its steps."""
    solvers, right_sides = programs.linear_solvers(equation, values)
    tapes = dict(zip((name for name, *_ in solvers), step.more, strict=True))
    axes = step.outputs
    _, solve, solve_constants = solvers[0]
    solve_outputs = run.shapes_within(solve, [*solve_constants, *right_sides], tapes["solve"], axes)
    outputs = _without_inner_arrays(solve_outputs, values)
    if not run.computes:
        return outputs

    def runner(name: str, program: Any, constants: Sequence[Value]) -> Callable[..., Any]:
        def run_solver(arrays: Any) -> tuple[Any, ...]:
            inputs = [*constants, *_with_arrays(arrays, right_sides)]
            return run.arrays_within(program, inputs, tapes[name], axes)

        return run_solver

    runners = {name: runner(name, program, constants) for name, program, constants in solvers}
    has_more = len(step.outputs) > len(right_sides)

    def solution_and_more(arrays: tuple[Any, ...]) -> Any:
        if not has_more:
            return arrays
        return arrays[: len(right_sides)], arrays[len(right_sides) :]

    def run_solve(_: Any, arrays: Any) -> Any:
        return solution_and_more(runners["solve"](arrays))

    def run_transposed(_: Any, arrays: Any) -> Any:
        return solution_and_more(runners["transpose_solve"](arrays))

    solution = lax.custom_linear_solve(
        runners["matvec"],
        tuple(value.array for value in right_sides),
        run_solve,
        run_transposed if "transpose_solve" in runners else None,
        has_aux=has_more,
    )
    return _with_arrays([*solution[0], *solution[1]] if has_more else solution, outputs)


# primitive -> (run, equation, its inputs, the equation with its labels) -> its outputs
BODIES: dict[str, Callable[[Replay, Any, list[Value], Step], list[Value]]] = {
    "scan": _replay_scan,
    "cond": _replay_cond,
    "while": _replay_while,
    "shard_map": _replay_shard_map,
    "custom_linear_solve": _replay_linear_solve,
}
