"""Running a program again: on what is left of its arrays, or on whole ones with somebody watching."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from jaxprune import programs
from jaxprune.structured.rules import Kept, Step, cut, rule_of
from jaxprune.structured.walk import Tape

__all__ = ["Path", "replayed", "watched"]


class _Live(NamedTuple):
    """An array that has been cut already; anything else is a constant of the program, still whole."""

    array: Any


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
    found = programs.run(program, [_Live(x) for x in inputs], rule, enters=_never)
    return [getattr(v, "array", v) for v in found]


def _rule(steps: Iterator[Step], kept: Kept, path: Path) -> programs.Rule:
    def rule(equation: Any, values: list[Any]) -> list[Any]:
        if programs.called(equation) is not None:
            return _called(equation, values, rule)
        step = next(steps)
        first = step.writes[0] if step.writes else -1
        reads_idle = any(value is None for value in values)
        if first in path.idle or (reads_idle and not step.writes):  # the latter prints, say
            return [None] * len(step.outputs)
        if first in path.passed:
            return [values[path.passed[first]]]
        with equation.ctx.manager:
            return [_Live(out) for out in computed(equation, values, step)]

    def computed(equation: Any, values: list[Any], step: Step) -> list[Any]:
        arrays = [
            v.array if isinstance(v, _Live) else cut(v, axes, kept)
            for v, axes in zip(values, step.inputs, strict=True)
        ]
        special = _BODIES.get(equation.primitive.name)
        known = rule_of(equation.primitive.name)
        if special is not None:
            return special(equation, arrays, step, kept)
        if known is not None and known.replay is not None:
            return known.replay(equation, arrays, step, kept)
        return programs.bind(equation, arrays)

    return rule


def _never(equation: Any) -> bool:
    return False  # calls are told to the rule: some of them keep their derivatives


def _called(equation: Any, values: list[Any], rule: programs.Rule) -> list[Any]:
    """Runs a program that an equation calls; what it says of derivatives still holds where it is known."""
    inner, name = programs.called(equation), equation.primitive.name
    if name in ("checkpoint", "remat2"):
        return _remat(equation, values, rule)
    found = programs.run(inner, values, rule, enters=_never)
    if name == "custom_jvp_call" and _is_relu(inner) and isinstance(found[0], _Live):
        return [_Live(jax.nn.relu(values[0].array))]  # its slope at 0 is 0, that of a maximum 1/2
    return found


def _is_relu(program: Any) -> bool:
    """Whether a program is called relu, and is the maximum of its one input and 0."""
    jaxpr = getattr(program, "jaxpr", program)
    if len(jaxpr.eqns) != 1 or jaxpr.eqns[0].params.get("name") != "relu":
        return False
    inner = programs.called(jaxpr.eqns[0])
    own = getattr(inner, "jaxpr", inner)
    if own is None or len(own.invars) != 1 or len(own.eqns) != 1:
        return False
    [last] = own.eqns
    value = getattr(last.invars[-1], "val", None)
    zero = value is not None and np.ndim(value) == 0 and value == 0
    return last.primitive.name == "max" and last.invars[0] is own.invars[0] and bool(zero)


def _remat(equation: Any, values: list[Any], rule: programs.Rule) -> list[Any]:
    """What is computed again in the backward pass is so on what is left, too."""
    p = equation.params
    live = [i for i, value in enumerate(values) if isinstance(value, _Live)]
    found: list[Any] = []

    def body(arrays: list[Any]) -> list[Any]:
        given = list(values)
        for i, array in zip(live, arrays, strict=True):
            given[i] = _Live(array)
        found[:] = programs.run(programs.called(equation), given, rule, enters=_never)
        return [v.array if isinstance(v, _Live) else None for v in found]

    again = jax.checkpoint(body, prevent_cse=p["prevent_cse"], policy=p["policy"])
    arrays = again([values[i].array for i in live])
    # What is no array that was cut is a constant of the program, or nobody needs it.
    return [v if array is None else _Live(array) for v, array in zip(found, arrays, strict=True)]


def _scan_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    turn = lambda values: replayed(equation.params["jaxpr"], values, step.more.tape, kept)
    return programs.repeated(equation, arrays, turn, int(kept(step.more.turns).sum()))


def _cond_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    pairs = zip(equation.params["branches"], step.more, strict=True)
    run = lambda branch, tape: lambda *xs: tuple(replayed(branch, xs, tape, kept))
    return list(lax.switch(arrays[0], [run(*pair) for pair in pairs], *arrays[1:]))


def _while_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    p, (test, body) = equation.params, step.more
    a, b = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    going = lambda c: replayed(p["cond_jaxpr"], [*arrays[:a], *c], test, kept)[0]

    def turn(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        after, alone = replayed(p["body_jaxpr"], [*arrays[a:b], *carry], body, kept), going(carry)
        if not alone.ndim:
            return tuple(after)
        # Under vmap each example has an end of its own, and stands still from then on.
        spread = lambda x: lax.broadcast_in_dim(alone, x.shape, range(alone.ndim))
        pairs = zip(after, carry, strict=True)
        return tuple(jax.numpy.where(spread(new), new, old) for new, old in pairs)

    return list(lax.while_loop(lambda c: going(c).any(), turn, tuple(arrays[b:])))


def _shard_map_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    p, [tape] = equation.params, step.more
    own = lambda *xs: tuple(replayed(p["jaxpr"], xs, tape, kept))
    run = jax.shard_map(
        own,
        mesh=p["mesh"],
        in_specs=tuple(p["in_specs"]),
        out_specs=tuple(p["out_specs"]),
        axis_names=set(p["newly_manual_axes"]),
        check_vma=p["check_vma"],
    )
    return list(run(*arrays))


def _linear_solve_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    """Gradients go by the equation that is solved, and not through the steps of a solver."""
    solvers, right = programs.linear_solvers(equation, arrays)
    run = {}
    for (name, program, constants), tape in zip(solvers, step.more, strict=True):
        run[name] = lambda values, program=program, constants=constants, tape=tape: tuple(
            replayed(program, [*constants, *values], tape, kept)
        )
    more = len(step.outputs) > len(right)
    split = lambda found: (found[: len(right)], found[len(right) :]) if more else found
    transposed = lambda _, values: split(run["transpose_solve"](values))
    found = lax.custom_linear_solve(
        run["matvec"],
        tuple(right),
        lambda _, values: split(run["solve"](values)),
        transposed if "transpose_solve" in run else None,
        has_aux=more,
    )
    return [*found[0], *found[1]] if more else list(found)


_BODIES = {
    "scan": _scan_again,
    "cond": _cond_again,
    "while": _while_again,
    "shard_map": _shard_map_again,
    "custom_linear_solve": _linear_solve_again,
}


def watched(
    program: Any,
    inputs: Sequence[Any],
    tape: Tape,
    watch: Callable[[Step, list[Any]], list[Any] | None],
) -> list[Any]:
    """Runs a program on whole arrays.

    Args:
      program: the same as was followed.
      inputs: arrays.
      tape: its equations.
      watch: (equation as it was followed, what goes into it) -> what comes out; `None`: what does so anyway.
    """
    steps = iter(tape.steps)

    def rule(equation: Any, values: list[Any]) -> list[Any]:
        found = watch(next(steps), values)
        return programs.bind(equation, values) if found is None else found

    return programs.run(program, inputs, rule)
