"""Which turns of loops can be left out one by one, as layers under a scan can."""

from collections.abc import Collection, Sequence
from typing import Any

from jaxprune.programs import constants as facts
from jaxprune.programs import count_scan_inputs
from jaxprune.programs.primitives import ADDITIONS, IDENTITIES
from jaxprune.structured.labels import Labels
from jaxprune.structured.replay import watched
from jaxprune.structured.rules import Step
from jaxprune.structured.walk import Loop, Tape

__all__ = ["settle"]


def settle(program: Any, tape: Tape, inputs: Sequence[facts.Fact], labels: Labels) -> None:
    """Tells the labels of each loop's turns: they stay, or can be left out, or are rows like any others.

    A turn can be left out if, with zeros for its share of the parameters, it does nothing: what the loop
    carries on comes out as it went in, but for sums with what is zero then, and zeros are what it emits.

    Args:
      program: as it was followed.
      tape: its equations.
      inputs: what is known of what goes in where all parameters are zero.
      labels: is told.
    """

    def watch(step: Step, values: list[Any]) -> list[facts.Fact]:
        pairs = zip(values, step.equation.invars, strict=True)
        known = [facts.fact_of_constant(value, atom.aval) for value, atom in pairs]
        name, p = step.equation.primitive.name, step.equation.params
        if isinstance(step.more, Loop):
            _settle_loop(step, known, labels)
        elif name == "cond":
            for branch, inner in zip(p["branches"], step.more, strict=True):
                settle(branch, inner, known[1:], labels)
        elif name == "while":
            own = [facts.UNKNOWN] * len(step.more[1].inputs)
            settle(p["body_jaxpr"], step.more[1], own, labels)
        return facts.propagate_equation(step.equation, values)

    watched(program, inputs, tape, watch)


def _settle_loop(step: Step, known: list[facts.Fact], labels: Labels) -> None:
    program, (tape, turns) = step.equation.params["jaxpr"], step.more
    fixed, count = count_scan_inputs(step.equation)
    unknown, rows = [facts.UNKNOWN] * count, known[fixed + count :]
    settle(program, tape, [*known[:fixed], *unknown, *rows], labels)
    if not rows:
        return  # the labels of its turns are those of nothing
    own = [*[facts.UNKNOWN] * fixed, *unknown, *(f if f.is_zero() else facts.UNKNOWN for f in rows)]
    zero = {number for number, f in zip(tape.inputs, own, strict=True) if f.is_zero()}

    def watch(inner: Step, values: list[Any]) -> list[facts.Fact]:
        found = facts.propagate_equation(inner.equation, values)
        zero.update(n for n, f in zip(inner.writes, found, strict=True) if f.is_zero())
        return found

    watched(program, own, tape, watch)
    emitted = zip(tape.outputs[count:], step.equation.outvars[count:], strict=True)
    told = all(number in zero for number, variable in emitted if not _dropped(variable))
    carried = list(zip(tape.inputs[fixed : fixed + count], tape.outputs[:count], strict=True))
    if not told or not all(_runs_through(tape.steps, *pair, zero) for pair in carried):
        labels.pin(turns)
    elif any(start != end for start, end in carried):
        labels.turns.append(turns)


def _dropped(variable: Any) -> bool:
    """Whether nobody reads an output of an equation."""
    return type(variable).__name__ == "DropVar"


def _runs_through(
    steps: Sequence[Step], start: int, end: int | None, zero: Collection[int]
) -> bool:
    """Whether a value comes out as it went in, but for sums with others of which all are zero."""
    writer = {number: step for step in steps for number in step.writes}
    open_, seen = [end], set()
    while open_:
        number = open_.pop()
        if number == start:
            return True
        if number in seen or number not in writer:
            continue
        seen.add(number)
        step = writer[number]
        name, reads = step.equation.primitive.name, step.reads
        if name in ADDITIONS and None not in reads:
            a, b = ([len(axis) for axis in axes] for axes in step.inputs)
            if a == b:
                open_ += [x for x, branch in (reads, reads[::-1]) if branch in zero]
        elif name in IDENTITIES and len(reads) == 1:
            open_.append(reads[0])
    return False
