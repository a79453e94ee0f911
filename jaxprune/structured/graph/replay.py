"""Runs a traced program again: on what is left of its arrays, or on whole ones with an observer."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import programs
from jaxprune.structured.graph.follow import Tape
from jaxprune.structured.graph.labels import AxisLabels
from jaxprune.structured.graph.remainders import (
    Leak,
    Places,
    Value,
    constant_value,
    follow_remainders,
)
from jaxprune.structured.graph.remainders.values import EVERYWHERE, Region
from jaxprune.structured.graph.replay_bodies import BODIES, shape_of
from jaxprune.structured.graph.rules import Kept, Step, rule_of

__all__ = ["Path", "find_leaks", "replay", "watched"]


class Path(NamedTuple):
    """A way through a program that leaves some of it out.

    Attributes:
      idle: indices of the first values written by the equations whose outputs nobody needs.
      passed: index of the first value written by an equation -> index of the input that is taken for its
        output.
    """

    idle: frozenset[int]
    passed: dict[int, int]


_WHOLE_PROGRAM = Path(frozenset(), {})


def replay(
    program: Any,
    inputs: Sequence[Any],
    tape: Tape,
    kept: Kept,
    path: Path | None = None,
    leak: Leak | None = None,
) -> list[Any]:
    """Returns the outputs of a program that runs on what is left of its inputs.

    Sums over removed units get what these would have added.

    Args:
      program: the one that the tape was made of.
      inputs: arrays, cut already.
      tape: the program's equations with their labels.
      kept: labels -> boolean per label: it is left.
      path: which equations are passed over or left out; `None`: none.
      leak: called with (reason, labels) where the whole function would see something of removed units, and
        this one does not.
    """
    run = _Replay(Places(kept), path or _WHOLE_PROGRAM, leak or _ignore_leak, computes=True)
    outputs = run(program, [Value(array) for array in inputs], tape)
    return [output.array if isinstance(output, Value) else output for output in outputs]


def find_leaks(program: Any, inputs: Sequence[Any], tape: Tape, kept: Kept, leak: Leak) -> None:
    """Tells where a program would see something of removed units, without running it.

    Args:
      program: the one that the tape was made of.
      inputs: shapes of what is left of its inputs.
      tape: the program's equations with their labels.
      kept: labels -> boolean per label: it is left.
      leak: called with (reason, labels) for each leak.
    """
    run = _Replay(Places(kept), _WHOLE_PROGRAM, leak, computes=False)
    run(program, [Value(shape) for shape in inputs], tape)


def _ignore_leak(reason: str, axes: AxisLabels) -> None:
    pass


class _Replay(NamedTuple):
    """Runs a program again. Its values are `Value`s; anything else is a constant, not cut yet.

    Attributes:
      places: which indices of labelled axes are left.
      path: which equations are passed over or left out.
      leak: called with (reason, labels) where removed units are owed something that cannot be told.
      computes: whether values hold arrays; else they hold shapes only.
    """

    places: Places
    path: Path
    leak: Leak
    computes: bool

    def __call__(self, program: Any, inputs: Sequence[Value], tape: Tape) -> list[Any]:
        """Returns the outputs of a program."""
        rule = self._rule(iter(tape.steps))
        return programs.run(program, inputs, rule, enters=_never)

    def within(
        self, program: Any, inputs: Sequence[Value], tape: Tape, axes: Sequence[AxisLabels]
    ) -> list[Value]:
        """Returns the outputs of a program within the program, all of them as `Value`s.

        Args:
          program: of a loop or a branch.
          inputs: of that program.
          tape: its equations with their labels.
          axes: labels of its outputs.
        """
        outputs = self._replace(path=_WHOLE_PROGRAM)(program, inputs, tape)
        variables = getattr(program, "jaxpr", program).outvars
        return [
            output if isinstance(output, Value) else self._constant(output, variable, output_axes)
            for output, variable, output_axes in zip(outputs, variables, axes, strict=True)
        ]

    def shapes_within(
        self, program: Any, inputs: Sequence[Value], tape: Tape, axes: Sequence[AxisLabels]
    ) -> list[Value]:
        """Returns what `within` does on shapes alone; leaks are told."""
        shapes = [value._replace(array=shape_of(value.array)) for value in inputs]
        return self._replace(computes=False).within(program, shapes, tape, axes)

    def arrays_within(
        self, program: Any, inputs: Sequence[Value], tape: Tape, axes: Sequence[AxisLabels]
    ) -> tuple[Any, ...]:
        """Returns the arrays of what `within` returns, after `shapes_within` has told the leaks."""
        return tuple(value.array for value in self.quiet().within(program, inputs, tape, axes))

    def quiet(self) -> "_Replay":
        """Returns a run that tells no leaks."""
        return self._replace(leak=_ignore_leak)

    def outputs_of(self, operands: list[Value], step: Step) -> list[Any]:
        """Returns what an equation makes of what is left, or the shapes of that."""
        equation = step.equation
        if not self.computes:
            shapes = [self.places.sizes(axes, EVERYWHERE) for axes in step.outputs]
            return [
                jax.ShapeDtypeStruct(shape, variable.aval.dtype)
                for shape, variable in zip(shapes, equation.outvars, strict=True)
            ]
        arrays = [value.array for value in operands]
        known_rule = rule_of(equation.primitive.name)
        if known_rule is not None and known_rule.replay is not None:
            return known_rule.replay(equation, arrays, step, self.places)
        return programs.bind(equation, arrays)

    def _rule(self, steps: Iterator[Step]) -> programs.Rule:
        """Returns the rule by which `programs.run` runs each equation."""

        def rule(equation: Any, values: list[Any]) -> list[Any]:
            if programs.called_program(equation) is not None:
                return self._call(equation, values, rule)
            step = next(steps)
            first_index = step.writes[0] if step.writes else -1
            reads_idle = any(value is None for value in values)
            is_idle = first_index in self.path.idle
            # What writes nothing (it prints, say) is idle with what it reads.
            if is_idle or (reads_idle and not step.writes):
                return [None] * len(step.outputs)
            if first_index in self.path.passed:
                return [values[self.path.passed[first_index]]]
            operands = [
                value if isinstance(value, Value) else self._constant(value, atom, axes)
                for value, atom, axes in zip(values, equation.invars, step.inputs, strict=True)
            ]
            with equation.ctx.manager:
                return list(self._run_equation(operands, step))

        return rule

    def _run_equation(self, operands: list[Value], step: Step) -> list[Value]:
        name = step.equation.primitive.name
        replay_body = BODIES.get(name)
        if replay_body is not None:
            return replay_body(self, step.equation, operands, step)
        arrays = self.outputs_of(operands, step)
        outputs = follow_remainders(operands, arrays, step, self.places, self.leak)
        if name == "iota" and not self.computes:  # its remainders are arrays
            return [value.shaped() for value in outputs]
        return outputs

    def _constant(self, array: Any, atom: Any, axes: AxisLabels) -> Value:
        value = constant_value(array, atom.aval, axes, self.places)
        return value if self.computes else value.shaped()

    def _call(self, equation: Any, values: list[Any], rule: programs.Rule) -> list[Any]:
        """Runs a program that an equation calls; its own derivatives hold where they are known."""
        program = programs.called_program(equation)
        name = equation.primitive.name
        if name in ("checkpoint", "remat2") and self.computes:
            return _replay_checkpoint(equation, values, rule)
        outputs = programs.run(program, values, rule, enters=_never)
        is_relu = name == "custom_jvp_call" and _is_relu(program)
        if is_relu and self.computes and isinstance(values[0], Value):
            # The slope of jax.nn.relu at 0 is 0, that of a maximum 1/2.
            return [outputs[0]._replace(array=jax.nn.relu(values[0].array))]
        return outputs


def _never(equation: Any) -> bool:
    return False  # calls are told to the rule: some of them keep their derivatives


def _is_relu(program: Any) -> bool:
    """Whether a program is called relu, and is the maximum of its one input and 0."""
    outer = getattr(program, "jaxpr", program)
    if len(outer.eqns) != 1 or outer.eqns[0].params.get("name") != "relu":
        return False
    called = programs.called_program(outer.eqns[0])
    inner = getattr(called, "jaxpr", called)
    if inner is None or len(inner.invars) != 1 or len(inner.eqns) != 1:
        return False
    [maximum] = inner.eqns
    bound = getattr(maximum.invars[-1], "val", None)
    is_zero = bound is not None and np.ndim(bound) == 0 and bound == 0
    return (
        maximum.primitive.name == "max" and maximum.invars[0] is inner.invars[0] and bool(is_zero)
    )


def _replay_checkpoint(equation: Any, values: list[Any], rule: programs.Rule) -> list[Any]:
    """Runs a rematerialised program so that the backward pass computes again what is left of it."""
    params = equation.params
    value_indices = [index for index, value in enumerate(values) if isinstance(value, Value)]
    entering_ids = {
        id(content) for index in value_indices for content in values[index].remainders.values()
    }
    traced: list[Any] = []

    def made_here(value: Value) -> dict[Region, Any]:
        """Returns remainders that are arrays of this program, which must leave it as outputs."""
        return {
            region: content
            for region, content in value.remainders.items()
            if isinstance(content, jax.Array) and id(content) not in entering_ids
        }

    def run_inside(arrays: list[Any]) -> list[Any]:
        operands = list(values)
        for index, array in zip(value_indices, arrays, strict=True):
            operands[index] = values[index]._replace(array=array)
        traced[:] = programs.run(programs.called_program(equation), operands, rule, enters=_never)
        return [
            (value.array, list(made_here(value).values())) if isinstance(value, Value) else None
            for value in traced
        ]

    rematerialised = jax.checkpoint(
        run_inside, prevent_cse=params["prevent_cse"], policy=params["policy"]
    )
    results = rematerialised([values[index].array for index in value_indices])
    outputs = []
    for value, result in zip(traced, results, strict=True):
        if result is None:  # a constant of the program, or nobody needs it
            outputs.append(value)
            continue
        array, contents = result
        # `traced` holds tracers of the program; its results stand for them outside.
        remainders = dict(value.remainders)
        remainders.update(zip(made_here(value), contents, strict=True))
        outputs.append(value._replace(array=array, remainders=remainders))
    return outputs


def watched(
    program: Any,
    inputs: Sequence[Any],
    tape: Tape,
    watch: Callable[[Step, list[Any]], list[Any] | None],
) -> list[Any]:
    """Returns the outputs of a program that runs on whole arrays, and shows each equation to an observer.

    Args:
      program: the one that the tape was made of.
      inputs: arrays.
      tape: the program's equations with their labels.
      watch: (equation with its labels, its inputs) -> its outputs; `None`: those that it has anyway.
    """
    steps = iter(tape.steps)

    def rule(equation: Any, values: list[Any]) -> list[Any]:
        outputs = watch(next(steps), values)
        return programs.bind(equation, values) if outputs is None else outputs

    return programs.run(program, inputs, rule)
