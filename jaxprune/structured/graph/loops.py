"""Which iterations of loops can be left out one by one, as layers under a scan can."""

from collections.abc import Collection, Sequence
from typing import Any

from jaxprune.programs import constants, count_scan_inputs
from jaxprune.programs.primitives import ADDITIONS, IDENTITIES
from jaxprune.structured.graph.follow import Loop, Tape
from jaxprune.structured.graph.labels import Labels
from jaxprune.structured.graph.replay import watched
from jaxprune.structured.graph.rules import Step

__all__ = ["classify_iterations"]


def classify_iterations(
    program: Any, tape: Tape, inputs: Sequence[constants.Fact], labels: Labels
) -> None:
    """Decides for each scan whether its iterations are pinned, removable one by one, or ordinary rows.

    An iteration is removable if, with zeros for its share of the parameters, it does nothing: what the loop
    carries on comes out as it went in, but for sums with what is zero then, and zeros are what it emits. The
    answer is recorded in `labels`; ordinary rows, of loops that carry on nothing but what they were given,
    need no entry.

    Args:
      program: as it was followed.
      tape: its equations.
      inputs: what is known of what goes in where all parameters are zero.
      labels: is told.
    """

    def watch(step: Step, values: list[Any]) -> list[constants.Fact]:
        pairs = zip(values, step.equation.invars, strict=True)
        known_inputs = [
            constants.fact_of_constant(value, variable.aval) for value, variable in pairs
        ]
        name = step.equation.primitive.name
        params = step.equation.params
        if isinstance(step.more, Loop):
            _classify_loop(step, known_inputs, labels)
        elif name == "cond":
            for branch, branch_tape in zip(params["branches"], step.more, strict=True):
                classify_iterations(branch, branch_tape, known_inputs[1:], labels)
        elif name == "while":
            unknown_inputs = [constants.UNKNOWN] * len(step.more[1].inputs)
            classify_iterations(params["body_jaxpr"], step.more[1], unknown_inputs, labels)
        return constants.propagate_equation(step.equation, values)

    watched(program, inputs, tape, watch)


def _classify_loop(step: Step, known_inputs: list[constants.Fact], labels: Labels) -> None:
    """Decides the same for one scan, and for those within it."""
    program = step.equation.params["jaxpr"]
    tape, iterations = step.more
    constant_count, carry_count = count_scan_inputs(step.equation)
    unknown_carry = [constants.UNKNOWN] * carry_count
    rows = known_inputs[constant_count + carry_count :]
    classify_iterations(
        program, tape, [*known_inputs[:constant_count], *unknown_carry, *rows], labels
    )
    if not rows:
        return  # no parameter has a slice for each iteration: there is nothing to cut
    # Of the inputs only the iteration's own slices are parameters of the iteration.
    body_inputs = [
        *[constants.UNKNOWN] * constant_count,
        *unknown_carry,
        *(row if row.is_zero() else constants.UNKNOWN for row in rows),
    ]
    zero_values = {
        index for index, fact in zip(tape.inputs, body_inputs, strict=True) if fact.is_zero()
    }

    def watch(body_step: Step, values: list[Any]) -> list[constants.Fact]:
        outputs = constants.propagate_equation(body_step.equation, values)
        zero_values.update(
            index for index, fact in zip(body_step.writes, outputs, strict=True) if fact.is_zero()
        )
        return outputs

    watched(program, body_inputs, tape, watch)
    emitted = zip(tape.outputs[carry_count:], step.equation.outvars[carry_count:], strict=True)
    emits_zeros = all(index in zero_values for index, variable in emitted if not _dropped(variable))
    carry_inputs = tape.inputs[constant_count : constant_count + carry_count]
    carried = list(zip(carry_inputs, tape.outputs[:carry_count], strict=True))
    if not emits_zeros or not all(
        _is_identity_path(tape.steps, start, end, zero_values) for start, end in carried
    ):
        labels.pin(iterations)
    elif any(start != end for start, end in carried):
        labels.iterations.append(iterations)


def _dropped(variable: Any) -> bool:
    """Whether nobody reads an output of an equation."""
    return type(variable).__name__ == "DropVar"


def _is_identity_path(
    steps: Sequence[Step], start: int, end: int | None, zero_values: Collection[int]
) -> bool:
    """Whether a value comes out as it went in, but for sums with others of which all are zero.

    Args:
      steps: of the body of a loop.
      start, end: indices of the value that goes in and of the one that comes out.
      zero_values: indices of the values that are zero.
    """
    step_writing = {index: step for step in steps for index in step.writes}
    open_values = [end]
    seen: set[int] = set()
    while open_values:  # from the end backwards
        index = open_values.pop()
        if index == start:
            return True
        if index in seen or index not in step_writing:
            continue
        seen.add(index)
        step = step_writing[index]
        name = step.equation.primitive.name
        reads = step.reads
        if name in ADDITIONS and None not in reads:
            left_shape, right_shape = ([len(axis) for axis in axes] for axes in step.inputs)
            if left_shape == right_shape:
                open_values += [
                    operand for operand, branch in (reads, reads[::-1]) if branch in zero_values
                ]
        elif name in IDENTITIES and len(reads) == 1:
            open_values.append(reads[0])
    return False
