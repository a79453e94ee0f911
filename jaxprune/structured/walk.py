"""Following labels through a program, and running it again on what is left."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from jaxprune import programs
from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules import Kept, Step, cut, rule_of
from jaxprune.structured.shortcuts import runs_through

__all__ = ["Loop", "Path", "Tape", "each", "followed", "repeated", "replayed", "scanned"]


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


class _Live(NamedTuple):
    """An array that has been cut already; anything else is a constant of the program, still whole."""

    array: Any


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
        inner = programs.called(equation)
        if inner is not None:
            return programs.run(inner, values, rule)
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
    if special is not None:
        outputs, more = special[0](labels, equation, axes)
        return Step(equation, axes, outputs, more)
    known = rule_of(name)
    if known is None:
        labels.unknown[name] = labels.unknown.get(name, 0) + 1
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
        for inner in _tapes(step):
            yield from ((found, turns * count) for found, count in each(inner, kept))


def _tapes(step: Step) -> Sequence[Tape]:
    if step.equation.primitive.name not in _BODIES:
        return ()
    return [step.more.tape] if isinstance(step.more, Loop) else step.more


class Path(NamedTuple):
    """A way through a program that leaves some of it out.

    Attributes:
      idle: first values written by the equations whose outputs nobody needs.
      passed: first value written by an equation -> which of its inputs is taken for its output.
    """

    idle: frozenset[int]
    passed: dict[int, int]


def replayed(
    program: Any,
    inputs: Sequence[Any],
    tape: Tape,
    kept: Kept,
    path: Path | None = None,
) -> list[Any]:
    """Runs a program on what is left of its inputs.

    Args:
      program: the same as was followed.
      inputs: arrays, cut already.
      tape: its equations.
      kept: labels -> which of them are left.
      path: which equations are passed over or left out; `None`: none.
    """
    rule = _rule(iter(tape.steps), kept, path or Path(frozenset(), {}))
    found = programs.run(program, [_Live(x) for x in inputs], rule)
    return [getattr(v, "array", v) for v in found]


def _rule(steps: Iterator[Step], kept: Kept, path: Path) -> programs.Rule:
    def rule(equation: Any, values: list[Any]) -> list[Any]:
        if programs.called(equation) is not None:
            return _called(equation, values, rule)
        step = next(steps)
        first = step.writes[0] if step.writes else -1
        if first in path.idle:
            return [None] * len(step.outputs)
        if first in path.passed:
            return [values[path.passed[first]]]
        arrays = [
            v.array if isinstance(v, _Live) else cut(v, axes, kept)
            for v, axes in zip(values, step.inputs, strict=True)
        ]
        special = _BODIES.get(equation.primitive.name)
        known = rule_of(equation.primitive.name)
        if special is not None:
            outputs = special[1](equation, arrays, step, kept)
        elif known is not None and known.replay is not None:
            outputs = known.replay(equation, arrays, step, kept)
        else:
            outputs = programs.bind(equation, arrays)
        return [_Live(out) for out in outputs]

    return rule


def _called(equation: Any, values: list[Any], rule: programs.Rule) -> list[Any]:
    """Runs a program that an equation calls; what it says of derivatives still holds where it is known."""
    inner, name = programs.called(equation), equation.primitive.name
    if name in ("checkpoint", "remat2"):
        return _remat(equation, values, rule)
    found = programs.run(inner, values, rule)
    if name == "custom_jvp_call" and _is_relu(inner) and isinstance(found[0], _Live):
        return [_Live(jax.nn.relu(values[0].array))]  # its slope at 0 is 0, that of a maximum 1/2
    return found


def _is_relu(program: Any) -> bool:
    names = [(e.primitive.name, e.params.get("name")) for e in program.jaxpr.eqns]
    return len(names) == 1 and names[0] in (("jit", "relu"), ("pjit", "relu"))


def _remat(equation: Any, values: list[Any], rule: programs.Rule) -> list[Any]:
    """What is computed again in the backward pass is so on what is left, too."""
    p = equation.params
    live = [i for i, value in enumerate(values) if isinstance(value, _Live)]
    found: list[Any] = []

    def body(arrays: list[Any]) -> list[Any]:
        given = list(values)
        for i, array in zip(live, arrays, strict=True):
            given[i] = _Live(array)
        found[:] = programs.run(programs.called(equation), given, rule)
        return [v.array if isinstance(v, _Live) else None for v in found]

    again = jax.checkpoint(body, prevent_cse=p["prevent_cse"], policy=p["policy"])
    arrays = again([values[i].array for i in live])
    # What is no array that was cut is a constant of the program, or nobody needs it.
    return [v if array is None else _Live(array) for v, array in zip(found, arrays, strict=True)]


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
    p, (fixed, count) = equation.params, scanned(equation)
    carried = fixed + count
    stacked = inputs[carried:]
    body = [*inputs[:carried], *(axes[1:] for axes in stacked)]
    found, tape = followed(p["jaxpr"], body, labels)
    for before, after in zip(inputs[fixed:carried], found[:count], strict=True):
        labels.tie_all(before, after)
    turns = labels.fresh(p["length"], pinned=not stacked)
    for axes in stacked:
        labels.tie(turns, axes[0])
    starts, rows = tape.inputs[fixed:carried], tape.inputs[carried:]
    pairs = list(zip(starts, tape.outputs[:count], strict=True))
    if not all(runs_through(tape.steps, start, end, rows) for start, end in pairs):
        labels.pin(turns)
    elif any(start != end for start, end in pairs):
        labels.turns.append(turns)
    return [*found[:count], *((turns, *axes) for axes in found[count:])], Loop(tape, turns)


def scanned(equation: Any) -> tuple[int, int]:
    """How many inputs of a scan are the same in each turn, and how many are carried on."""
    p = equation.params
    if "ft_in" in p:  # from JAX 0.12 on
        fixed, carried, _ = p["ft_in"].unpack()
        return len(fixed), len(carried)
    return p["num_consts"], p["num_carry"]


def _scan_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    turn = lambda values: replayed(equation.params["jaxpr"], values, step.more.tape, kept)
    return repeated(equation, arrays, turn, int(kept(step.more.turns).sum()))


def repeated(
    equation: Any, arrays: Sequence[Any], turn: Callable[[list[Any]], list[Any]], length: int
) -> list[Any]:
    """Runs a scan with another program in it.

    Args:
      equation: the scan.
      arrays: that go into it.
      turn: what goes into its program -> what comes out, perhaps with more rows behind.
      length: number of turns.
    """
    p, (fixed, count) = equation.params, scanned(equation)

    def body(carry: Any, rows: Any) -> Any:
        found = turn([*arrays[:fixed], *carry, *rows])
        return tuple(found[:count]), tuple(found[count:])

    start, rows = tuple(arrays[fixed : fixed + count]), tuple(arrays[fixed + count :])
    options = {"length": length, "reverse": p["reverse"], "unroll": p["unroll"]}
    carry, stacked = lax.scan(body, start, rows, **options)
    return [*carry, *stacked]


def _cond(labels: Labels, equation: Any, inputs: list[Axes]) -> tuple[list[Axes], Any]:
    pairs = [followed(branch, inputs[1:], labels) for branch in equation.params["branches"]]
    first = pairs[0][0]
    for found, _ in pairs[1:]:
        for a, b in zip(first, found, strict=True):
            labels.tie_all(a, b)
    return first, [tape for _, tape in pairs]


def _cond_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    pairs = zip(equation.params["branches"], step.more, strict=True)
    run = lambda branch, tape: lambda *xs: tuple(replayed(branch, xs, tape, kept))
    return list(lax.switch(arrays[0], [run(*pair) for pair in pairs], *arrays[1:]))


def _while(labels: Labels, equation: Any, inputs: list[Axes]) -> tuple[list[Axes], Any]:
    p = equation.params
    a, b = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    carry = inputs[b:]
    _, test = followed(p["cond_jaxpr"], [*inputs[:a], *carry], labels)
    found, body = followed(p["body_jaxpr"], [*inputs[a:b], *carry], labels)
    for before, after in zip(carry, found, strict=True):
        labels.tie_all(before, after)
    return found, (test, body)


def _while_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    p, (test, body) = equation.params, step.more
    a, b = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    going = lambda c: replayed(p["cond_jaxpr"], [*arrays[:a], *c], test, kept)[0]
    turn = lambda c: tuple(replayed(p["body_jaxpr"], [*arrays[a:b], *c], body, kept))
    return list(lax.while_loop(going, turn, tuple(arrays[b:])))


_BODIES = {
    "scan": (_scan, _scan_again),
    "cond": (_cond, _cond_again),
    "while": (_while, _while_again),
}
