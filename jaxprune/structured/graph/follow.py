"""Label propagation: following labels through a program, equation by equation."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune import programs
from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.rules import Kept, Step, rule_of

__all__ = ["Loop", "Tape", "iter_steps", "propagate_labels", "tapes_within"]


class Tape(NamedTuple):
    """The equations of a program, with labels.

    Attributes:
      steps: its equations, those of programs that it calls among them.
      inputs, outputs: indices of its values, as in `Step.reads`; `None`: a constant.
    """

    steps: list[Step]
    inputs: list[int]
    outputs: list[int | None]


class _LabelledValue(NamedTuple):
    """A value of the program: the labels of its axes, and its index."""

    axes: AxisLabels
    index: int


def propagate_labels(
    program: Any, inputs: Sequence[AxisLabels], labels: Labels
) -> tuple[list[AxisLabels], Tape]:
    """Returns the labels of a program's outputs, and each equation that was met.

    Args:
      program: a jaxpr with its constants.
      inputs: labels of its inputs.
      labels: is told what the equations say.
    """
    steps: list[Step] = []
    value_counter = itertools.count()

    def axes_of(value: Any) -> AxisLabels:
        if isinstance(value, _LabelledValue):
            return value.axes
        return labels.fresh_like(getattr(value, "shape", ()))

    def follow_equation(equation: Any, values: list[Any]) -> list[Any]:
        step = _label_equation(labels, equation, [axes_of(value) for value in values])
        outputs = [_LabelledValue(axes, next(value_counter)) for axes in step.outputs]
        reads = tuple(map(_index_of, values))
        writes = tuple(map(_index_of, outputs))
        steps.append(step._replace(reads=reads, writes=writes))
        return list(outputs)

    input_values = [_LabelledValue(axes, next(value_counter)) for axes in inputs]
    output_values = programs.run(program, input_values, follow_equation)
    tape = Tape(
        steps,
        [value.index for value in input_values],
        [_index_of(value) for value in output_values],
    )
    return [axes_of(value) for value in output_values], tape


def _index_of(value: Any) -> Any:
    """Returns the index of a value; `None`: a constant of the program."""
    return value.index if isinstance(value, _LabelledValue) else None


def _label_equation(labels: Labels, equation: Any, axes: list[AxisLabels]) -> Step:
    """Returns an equation with labels of its outputs, by the rule of its primitive."""
    name = equation.primitive.name
    follow_body = _BODIES.get(equation.primitive.name)
    labels.reason = f"`{name}`"
    if follow_body is not None:
        outputs, more = follow_body(labels, equation, axes)
        return Step(equation, axes, outputs, more)
    rule = rule_of(name)
    if rule is None:
        labels.unknown[name] = labels.unknown.get(name, 0) + 1
        labels.reason = f"`{name}` has no rule"
        for value_axes in axes:
            labels.pin(*value_axes)
        shapes = [tuple(variable.aval.shape) for variable in equation.outvars]
        pinned = [labels.fresh_like(shape, pinned=True) for shape in shapes]
        return Step(equation, axes, pinned)
    labelled = rule.label(labels, equation, axes)
    outputs, more = labelled if isinstance(labelled, tuple) else (labelled, None)
    return Step(equation, axes, outputs, more)


def iter_steps(tape: Tape, kept: Kept = np.ones_like) -> Iterator[tuple[Step, int]]:
    """Yields all steps, those of programs within the program too, and how often each is made.

    Of the branches of a condition all are counted; a loop without a known end counts once.

    Args:
      tape: of the program.
      kept: labels -> which of them are left.
    """
    for step in tape.steps:
        yield step, 1
        iteration_count = (
            int(kept(step.more.iterations).sum()) if isinstance(step.more, Loop) else 1
        )
        for inner_tape in tapes_within(step):
            for inner_step, count in iter_steps(inner_tape, kept):
                yield inner_step, iteration_count * count


def tapes_within(step: Step) -> Sequence[Tape]:
    """Returns the programs within a step: of a loop, or of the branches of a condition."""
    if step.equation.primitive.name not in _BODIES:
        return ()
    return [step.more.tape] if isinstance(step.more, Loop) else step.more


# Programs within programs: their own tapes are what their steps remember.


class Loop(NamedTuple):
    """What is remembered of a scan.

    Attributes:
      tape: of the program that it repeats.
      iterations: labels of its iterations.
    """

    tape: Tape
    iterations: np.ndarray


def _scan(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> tuple[list[AxisLabels], Any]:
    params = equation.params
    constant_count, carry_count = programs.count_scan_inputs(equation)
    stacked_start = constant_count + carry_count
    stacked = inputs[stacked_start:]
    body_inputs = [*inputs[:stacked_start], *(axes[1:] for axes in stacked)]
    body_outputs, tape = propagate_labels(params["jaxpr"], body_inputs, labels)
    carried = zip(inputs[constant_count:stacked_start], body_outputs[:carry_count], strict=True)
    for axes_in, axes_out in carried:
        labels.tie_all(axes_in, axes_out)
    labels.reason = "`scan`"
    iterations = labels.fresh(params["length"], pinned=not stacked)
    for axes in stacked:
        labels.tie(iterations, axes[0])
    emitted = [(iterations, *axes) for axes in body_outputs[carry_count:]]
    return [*body_outputs[:carry_count], *emitted], Loop(tape, iterations)


def _cond(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> tuple[list[AxisLabels], Any]:
    branches = [
        propagate_labels(branch, inputs[1:], labels) for branch in equation.params["branches"]
    ]
    first_outputs = branches[0][0]
    for outputs, _ in branches[1:]:
        for axes, other_axes in zip(first_outputs, outputs, strict=True):
            labels.tie_all(axes, other_axes)
    return first_outputs, [tape for _, tape in branches]


def _while(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> tuple[list[AxisLabels], Any]:
    params = equation.params
    body_start = params["cond_nconsts"]
    carry_start = params["cond_nconsts"] + params["body_nconsts"]
    carry = inputs[carry_start:]
    [continues], test_tape = propagate_labels(
        params["cond_jaxpr"], [*inputs[:body_start], *carry], labels
    )
    outputs, body_tape = propagate_labels(
        params["body_jaxpr"], [*inputs[body_start:carry_start], *carry], labels
    )
    for axes_in, axes_out in zip(carry, outputs, strict=True):
        labels.tie_all(axes_in, axes_out)
        # Under vmap each example has an end of its own.
        labels.tie_all(continues, axes_in[: len(continues)])
    return outputs, (test_tape, body_tape)


def _shard_map(
    labels: Labels, equation: Any, inputs: list[AxisLabels]
) -> tuple[list[AxisLabels], Any]:
    """Follows the program of each device: an axis divided among devices stays, others are the same."""
    params = equation.params
    program = params["jaxpr"]
    body_inputs = [
        _relabel_divided_axes(labels, axes, variable.aval.shape)
        for axes, variable in zip(inputs, program.invars, strict=True)
    ]
    body_outputs, tape = propagate_labels(program, body_inputs, labels)
    labels.reason = "`shard_map`"
    shapes = [variable.aval.shape for variable in equation.outvars]
    outputs = [
        _relabel_divided_axes(labels, axes, shape)
        for axes, shape in zip(body_outputs, shapes, strict=True)
    ]
    return outputs, [tape]


def _relabel_divided_axes(labels: Labels, axes: AxisLabels, shape: Sequence[int]) -> AxisLabels:
    """Returns the labels of an array that is cut among devices, or put together of theirs."""
    new_axes = []
    for axis, size in zip(axes, shape, strict=True):
        if len(axis) != size:
            labels.pin(axis)
            axis = labels.fresh(size, pinned=True)
        new_axes.append(axis)
    return tuple(new_axes)


def _linear_solve(
    labels: Labels, equation: Any, inputs: list[AxisLabels]
) -> tuple[list[AxisLabels], Any]:
    """Follows the solution $x$ of $A x = b$, and the programs that make $A x$ or solve for the transpose."""
    solvers, right_side = programs.linear_solvers(equation, inputs)
    solution = right_side
    tapes = []
    for name, program, constants in solvers:
        operands = solution if name in ("matvec", "vecmat") else right_side
        outputs, tape = propagate_labels(program, [*constants, *operands], labels)
        tapes.append(tape)
        solution = outputs if name == "solve" else solution
        # Behind the solution stand auxiliary outputs, which are tied to nothing.
        for axes, right_axes in zip(outputs, right_side, strict=False):
            labels.tie_all(axes, right_axes)
    return list(solution), tapes


_BODIES = {
    "scan": _scan,
    "cond": _cond,
    "while": _while,
    "shard_map": _shard_map,
    "custom_linear_solve": _linear_solve,
}
