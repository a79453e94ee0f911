"""Following labels through a program."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprune import programs
from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules import Kept, Step, rule_of

__all__ = ["Loop", "Tape", "each", "followed", "tapes_within"]


class Tape(NamedTuple):
    """A program as it was followed.

    Attributes:
      steps: its equations, those of programs that it calls among them.
      inputs, outputs: numbers of its values; `None`: a constant.
    """

    steps: list[Step]
    inputs: list[int]
    outputs: list[int | None]


class _Followed(NamedTuple):
    axes: Axes
    number: int


def followed(program: Any, inputs: Sequence[Axes], labels: Labels) -> tuple[list[Axes], Tape]:
    """Returns the labels of a program's outputs, and each equation that was met.

    Args:
      program: a jaxpr with its constants.
      inputs: labels of its inputs.
      labels: is told what the equations say.
    """
    steps: list[Step] = []
    count = itertools.count()

    def axes_of(value: Any) -> Axes:
        if isinstance(value, _Followed):
            return value.axes
        return labels.fresh_like(getattr(value, "shape", ()))

    def rule(equation: Any, values: list[Any]) -> list[Any]:
        step = _step(labels, equation, [axes_of(v) for v in values])
        found = [_Followed(out, next(count)) for out in step.outputs]
        reads, writes = tuple(map(_number, values)), tuple(map(_number, found))
        steps.append(step._replace(reads=reads, writes=writes))
        return list(found)

    given = [_Followed(axes, next(count)) for axes in inputs]
    found = programs.run(program, given, rule)
    tape = Tape(steps, [value.number for value in given], [_number(v) for v in found])
    return [axes_of(v) for v in found], tape


def _number(value: Any) -> Any:
    return value.number if isinstance(value, _Followed) else None


def _step(labels: Labels, equation: Any, axes: list[Axes]) -> Step:
    name, special = equation.primitive.name, _BODIES.get(equation.primitive.name)
    labels.reason = f"`{name}`"
    if special is not None:
        outputs, more = special(labels, equation, axes)
        return Step(equation, axes, outputs, more)
    known = rule_of(name)
    if known is None:
        labels.unknown[name] = labels.unknown.get(name, 0) + 1
        labels.reason = f"`{name}` has no rule"
        for value in axes:
            labels.pin(*value)
        shapes = [tuple(v.aval.shape) for v in equation.outvars]
        pinned = [labels.fresh_like(shape, pinned=True) for shape in shapes]
        return Step(equation, axes, pinned)
    found = known.label(labels, equation, axes)
    outputs, more = found if isinstance(found, tuple) else (found, None)
    return Step(equation, axes, outputs, more)


def each(tape: Tape, kept: Kept = np.ones_like) -> Iterator[tuple[Step, int]]:
    """All steps, those of programs within the program too, and how often each is made.

    Of the branches of a condition all are counted; a loop without a known end counts once.

    Args:
      tape: of the program.
      kept: labels -> which of them are left.
    """
    for step in tape.steps:
        yield step, 1
        turns = int(kept(step.more.turns).sum()) if isinstance(step.more, Loop) else 1
        for inner in tapes_within(step):
            yield from ((found, turns * count) for found, count in each(inner, kept))


def tapes_within(step: Step) -> Sequence[Tape]:
    """The programs within a step: of a loop, or of the branches of a condition."""
    if step.equation.primitive.name not in _BODIES:
        return ()
    return [step.more.tape] if isinstance(step.more, Loop) else step.more


# Programs within programs: their own tapes are what their steps remember.


class Loop(NamedTuple):
    """What is remembered of a scan.

    Attributes:
      tape: of the program that it repeats.
      turns: labels of the turns.
    """

    tape: Tape
    turns: np.ndarray


def _scan(labels: Labels, equation: Any, inputs: list[Axes]) -> tuple[list[Axes], Any]:
    p, (fixed, count) = equation.params, programs.count_scan_inputs(equation)
    carried = fixed + count
    stacked = inputs[carried:]
    body = [*inputs[:carried], *(axes[1:] for axes in stacked)]
    found, tape = followed(p["jaxpr"], body, labels)
    for before, after in zip(inputs[fixed:carried], found[:count], strict=True):
        labels.tie_all(before, after)
    labels.reason = "`scan`"
    turns = labels.fresh(p["length"], pinned=not stacked)
    for axes in stacked:
        labels.tie(turns, axes[0])
    return [*found[:count], *((turns, *axes) for axes in found[count:])], Loop(tape, turns)


def _cond(labels: Labels, equation: Any, inputs: list[Axes]) -> tuple[list[Axes], Any]:
    pairs = [followed(branch, inputs[1:], labels) for branch in equation.params["branches"]]
    first = pairs[0][0]
    for found, _ in pairs[1:]:
        for a, b in zip(first, found, strict=True):
            labels.tie_all(a, b)
    return first, [tape for _, tape in pairs]


def _while(labels: Labels, equation: Any, inputs: list[Axes]) -> tuple[list[Axes], Any]:
    p = equation.params
    a, b = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    carry = inputs[b:]
    [ends], test = followed(p["cond_jaxpr"], [*inputs[:a], *carry], labels)
    found, body = followed(p["body_jaxpr"], [*inputs[a:b], *carry], labels)
    for before, after in zip(carry, found, strict=True):
        labels.tie_all(before, after)
        labels.tie_all(ends, before[: len(ends)])  # under vmap each example has an end of its own
    return found, (test, body)


def _shard_map(labels: Labels, equation: Any, inputs: list[Axes]) -> tuple[list[Axes], Any]:
    """An axis that is divided among devices stays; all others are the same on each."""
    p = equation.params
    own = p["jaxpr"]
    entering = [
        _on_each(labels, axes, v.aval.shape) for axes, v in zip(inputs, own.invars, strict=True)
    ]
    found, tape = followed(own, entering, labels)
    labels.reason = "`shard_map`"
    shapes = [v.aval.shape for v in equation.outvars]
    return [_on_each(labels, *pair) for pair in zip(found, shapes, strict=True)], [tape]


def _on_each(labels: Labels, axes: Axes, shape: Sequence[int]) -> Axes:
    """Labels of an array that is cut among devices, or put together of theirs."""
    found = []
    for axis, size in zip(axes, shape, strict=True):
        if len(axis) != size:
            labels.pin(axis)
            axis = labels.fresh(size, pinned=True)
        found.append(axis)
    return tuple(found)


def _linear_solve(labels: Labels, equation: Any, inputs: list[Axes]) -> tuple[list[Axes], Any]:
    """The solution $x$ of $A x = b$ by a program for it; others make $A x$, and solve for the transpose."""
    solvers, right = programs.linear_solvers(equation, inputs)
    solution, tapes = right, []
    for name, program, constants in solvers:
        given = solution if name in ("matvec", "vecmat") else right
        found, tape = followed(program, [*constants, *given], labels)
        tapes.append(tape)
        solution = found if name == "solve" else solution
        for axes, others in zip(found, right, strict=False):  # behind them stands what else is told
            labels.tie_all(axes, others)
    return list(solution), tapes


_BODIES = {
    "scan": _scan,
    "cond": _cond,
    "while": _while,
    "shard_map": _shard_map,
    "custom_linear_solve": _linear_solve,
}
