"""Running a program again: on what is left of its arrays, or on whole ones with somebody watching."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import programs
from jaxprune.structured.labels import Axes
from jaxprune.structured.remainders import (
    Leak,
    Lost,
    Places,
    Value,
    constant_value,
    follow_remainders,
)
from jaxprune.structured.remainders.values import EVERYWHERE, Region, is_number
from jaxprune.structured.rules import Kept, Step, rule_of
from jaxprune.structured.walk import Tape

__all__ = ["Path", "leaks", "replayed", "watched"]


class Path(NamedTuple):
    """A way through a program that leaves some of it out.

    Attributes:
      idle: first values written by the equations whose outputs nobody needs.
      passed: first value written by an equation -> which of its inputs is taken for its output.
    """

    idle: frozenset[int]
    passed: dict[int, int]


_STRAIGHT = Path(frozenset(), {})


def replayed(
    program: Any,
    inputs: Sequence[Any],
    tape: Tape,
    kept: Kept,
    path: Path | None = None,
    leak: Leak | None = None,
) -> list[Any]:
    """Runs a program on what is left of its inputs.

    What removed units would have added to sums over them is added then.

    Args:
      program: the same as was followed.
      inputs: arrays, cut already.
      tape: its equations.
      kept: labels -> which of them are left.
      path: which equations are passed over or left out; `None`: none.
      leak: is told where the whole function would see something of removed units, and this one does not.
    """
    run = _Run(Places(kept), path or _STRAIGHT, leak or _unheard, computes=True)
    found = run(program, [Value(x) for x in inputs], tape)
    return [v.array if isinstance(v, Value) else v for v in found]


def leaks(program: Any, inputs: Sequence[Any], tape: Tape, kept: Kept, leak: Leak) -> None:
    """Tells where a program would see something of removed units, without running it.

    Args:
      program: the same as was followed.
      inputs: shapes of what is left of its inputs.
      tape: its equations.
      kept: labels -> which of them are left.
      leak: is told.
    """
    run = _Run(Places(kept), _STRAIGHT, leak, computes=False)
    run(program, [Value(x) for x in inputs], tape)


def _unheard(reason: str, axes: Axes) -> None:
    pass


class _Run(NamedTuple):
    """A program that is run again: values are `Value`s; anything else is a constant, still whole.

    Attributes:
      places: which are left.
      path: which equations are passed over or left out.
      leak: is told.
      computes: whether there are arrays, or shapes only.
    """

    places: Places
    path: Path
    leak: Leak
    computes: bool

    def __call__(self, program: Any, inputs: Sequence[Value], tape: Tape) -> list[Any]:
        rule = self._rule(iter(tape.steps))
        return programs.run(program, inputs, rule, enters=_never)

    def within(
        self, program: Any, inputs: Sequence[Value], tape: Tape, axes: Sequence[Axes]
    ) -> list[Value]:
        """Runs a program within the program; constants that it gives are values as well.

        Args:
          program: of a loop or a branch.
          inputs: of it.
          tape: its equations.
          axes: labels of its outputs.
        """
        found = self._replace(path=_STRAIGHT)(program, inputs, tape)
        outputs = getattr(program, "jaxpr", program).outvars
        return [
            v if isinstance(v, Value) else self._constant(v, atom, own)
            for v, atom, own in zip(found, outputs, axes, strict=True)
        ]

    def _rule(self, steps: Iterator[Step]) -> programs.Rule:
        def rule(equation: Any, values: list[Any]) -> list[Any]:
            if programs.called_program(equation) is not None:
                return self._called(equation, values, rule)
            step = next(steps)
            first = step.writes[0] if step.writes else -1
            reads_idle = any(value is None for value in values)
            if first in self.path.idle or (
                reads_idle and not step.writes
            ):  # the latter prints, say
                return [None] * len(step.outputs)
            if first in self.path.passed:
                return [values[self.path.passed[first]]]
            operands = [
                v if isinstance(v, Value) else self._constant(v, atom, axes)
                for v, atom, axes in zip(values, equation.invars, step.inputs, strict=True)
            ]
            with equation.ctx.manager:
                return list(self._equation(operands, step))

        return rule

    def _equation(self, operands: list[Value], step: Step) -> list[Value]:
        name = step.equation.primitive.name
        special = _BODIES.get(name)
        if special is not None:
            return special(self, step.equation, operands, step)
        outputs = self._outputs(operands, step)
        found = follow_remainders(operands, outputs, step, self.places, self.leak)
        return [v.shaped() for v in found] if name == "iota" and not self.computes else found

    def _constant(self, value: Any, atom: Any, axes: Axes) -> Value:
        found = constant_value(value, atom.aval, axes, self.places)
        return found if self.computes else found.shaped()

    def _outputs(self, operands: list[Value], step: Step) -> list[Any]:
        """What an equation makes of what is left, or the shapes of that."""
        equation = step.equation
        if not self.computes:
            shapes = [self.places.sizes(axes, EVERYWHERE) for axes in step.outputs]
            pairs = zip(shapes, equation.outvars, strict=True)
            return [jax.ShapeDtypeStruct(shape, v.aval.dtype) for shape, v in pairs]
        arrays = [value.array for value in operands]
        known = rule_of(equation.primitive.name)
        if known is not None and known.replay is not None:
            return known.replay(equation, arrays, step, self.places)
        return programs.bind(equation, arrays)

    def _called(self, equation: Any, values: list[Any], rule: programs.Rule) -> list[Any]:
        """Runs a program that an equation calls; what it says of derivatives holds where that is known."""
        inner, name = programs.called_program(equation), equation.primitive.name
        if name in ("checkpoint", "remat2") and self.computes:
            return _remat(equation, values, rule)
        found = programs.run(inner, values, rule, enters=_never)
        relu = name == "custom_jvp_call" and _is_relu(inner)
        if relu and self.computes and isinstance(values[0], Value):
            # Its slope at 0 is 0, that of a maximum 1/2.
            return [found[0]._replace(array=jax.nn.relu(values[0].array))]
        return found


def _never(equation: Any) -> bool:
    return False  # calls are told to the rule: some of them keep their derivatives


def _is_relu(program: Any) -> bool:
    """Whether a program is called relu, and is the maximum of its one input and 0."""
    jaxpr = getattr(program, "jaxpr", program)
    if len(jaxpr.eqns) != 1 or jaxpr.eqns[0].params.get("name") != "relu":
        return False
    inner = programs.called_program(jaxpr.eqns[0])
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
    live = [i for i, value in enumerate(values) if isinstance(value, Value)]
    entering = {id(c) for i in live for c in values[i].remainders.values()}
    found: list[Any] = []

    def made_here(value: Value) -> dict[Region, Any]:
        """Remainders that are arrays of this program, and must leave it as what it gives."""
        pairs = value.remainders.items()
        return {r: c for r, c in pairs if isinstance(c, jax.Array) and id(c) not in entering}

    def body(arrays: list[Any]) -> list[Any]:
        given = list(values)
        for i, array in zip(live, arrays, strict=True):
            given[i] = values[i]._replace(array=array)
        found[:] = programs.run(programs.called_program(equation), given, rule, enters=_never)
        return [(v.array, made_here(v)) if isinstance(v, Value) else None for v in found]

    again = jax.checkpoint(
        lambda arrays: [None if x is None else (x[0], list(x[1].values())) for x in body(arrays)],
        prevent_cse=p["prevent_cse"],
        policy=p["policy"],
    )
    arrays = again([values[i].array for i in live])
    outputs = []
    for value, out in zip(found, arrays, strict=True):
        if out is None:  # a constant of the program, or nobody needs it
            outputs.append(value)
            continue
        array, contents = out
        known = dict(value.remainders)
        known.update(zip(made_here(value), contents, strict=True))
        outputs.append(value._replace(array=array, remainders=known))
    return outputs


# Loops and conditions: what is not zero in removed places passes through them as it is, or is lost.

_IN_A_LOOP = "a loop changes what removed units leave behind"


def _as_it_was(before: Value, after: Value) -> dict[Region, Any]:
    """The remainders that two values have in common; others are lost."""
    found: dict[Region, Any] = {}
    for region in before.remainders.keys() | after.remainders.keys():
        a = before.remainders.get(region)
        b = after.remainders.get(region)
        if a is b or (is_number(a) and is_number(b) and a == b):
            found[region] = a
        elif region:
            found[region] = next((c for c in (a, b) if isinstance(c, Lost)), Lost(_IN_A_LOOP))
    return found


def _settled(
    run: _Run,
    program: Any,
    entering: list[Value],
    carried: slice,
    tape: Tape,
    axes: Sequence[Axes],
) -> list[Value]:
    """What enters a loop's program with the remainders that each iteration finds and leaves."""
    quiet = run._replace(leak=_unheard, computes=False)
    while True:
        shapes = [v._replace(array=_shape_of(v.array)) for v in entering]
        leaving = quiet.within(program, shapes, tape, axes)
        changed = False
        start = carried.start or 0
        for i, after in zip(range(start, carried.stop), leaving, strict=False):
            before = entering[i]
            shared = _as_it_was(before, after)
            settled = before._replace(
                remainders=shared, positive=before.positive and after.positive
            )
            same = shared.keys() == before.remainders.keys() and all(
                shared[r] is before.remainders[r] or is_number(shared[r]) for r in shared
            )
            if not same or settled.positive != before.positive:
                entering[i], changed = settled, True
        if not changed:
            return entering


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype)


def _leaving(arrays: Sequence[Any], values: Sequence[Value]) -> list[Value]:
    return [v._replace(array=array) for array, v in zip(arrays, values, strict=True)]


def _scan_again(run: _Run, equation: Any, values: list[Value], step: Step) -> list[Value]:
    program, (tape, turns) = equation.params["jaxpr"], step.more
    fixed, count = programs.count_scan_inputs(equation)
    rows = [_row(v) for v in values[fixed + count :]]
    carry = slice(fixed, fixed + count)
    axes = [*step.outputs[:count], *(own[1:] for own in step.outputs[count:])]
    entering = _settled(run, program, [*values[: fixed + count], *rows], carry, tape, axes)
    shapes = [v._replace(array=_shape_of(v.array)) for v in entering]
    leaving = run._replace(computes=False).within(program, shapes, tape, axes)
    length = int(run.places(turns).sum())
    emitted = [_stacked(v, length) for v in leaving[count:]]
    found = [*entering[carry], *emitted]
    if not run.computes:
        return found
    quiet = run._replace(leak=_unheard)

    def turn(arrays: list[Any]) -> list[Any]:
        return [v.array for v in quiet.within(program, _leaving(arrays, entering), tape, axes)]

    arrays = programs.run_scan(equation, [v.array for v in values], turn, length)
    return _leaving(arrays, found)


def _row(value: Value) -> Value:
    """What a loop takes of a stack in each iteration; turns that were removed are none."""
    shape = jax.ShapeDtypeStruct(value.array.shape[1:], value.array.dtype)
    pairs = {r: c for r, c in value.remainders.items() if 0 not in r}
    told = lambda c: c if is_number(c) or isinstance(c, Lost) else Lost(_IN_A_LOOP)
    return Value(
        shape, {frozenset(i - 1 for i in r): told(c) for r, c in pairs.items()}, value.positive
    )


def _stacked(value: Value, length: int) -> Value:
    """What a loop emits in all of its iterations."""
    told = lambda c: c if is_number(c) or isinstance(c, Lost) else Lost(_IN_A_LOOP)
    found = {frozenset(i + 1 for i in r): told(c) for r, c in value.remainders.items()}
    shape = jax.ShapeDtypeStruct((length, *jnp.shape(value.array)), value.array.dtype)
    return Value(shape, found, value.positive)


def _cond_again(run: _Run, equation: Any, values: list[Value], step: Step) -> list[Value]:
    branches, given = list(zip(equation.params["branches"], step.more, strict=True)), values[1:]
    shapes = [v._replace(array=_shape_of(v.array)) for v in given]
    abstract = run._replace(computes=False)
    ends = [abstract.within(branch, shapes, tape, step.outputs) for branch, tape in branches]
    found = ends[0]
    for other in ends[1:]:
        found = [
            a._replace(remainders=_as_it_was(a, b), positive=a.positive and b.positive)
            for a, b in zip(found, other, strict=True)
        ]
    own = {id(c) for v in given for c in v.remainders.values()}
    found = [v._replace(remainders=_from_outside(v.remainders, own)) for v in found]
    if not run.computes:
        return found
    quiet = run._replace(leak=_unheard)
    body = lambda branch, tape: (
        lambda *xs: tuple(
            v.array for v in quiet.within(branch, _leaving(xs, given), tape, step.outputs)
        )
    )
    arrays = lax.switch(
        values[0].array, [body(*pair) for pair in branches], *(v.array for v in given)
    )
    return _leaving(arrays, found)


def _from_outside(remainders: Mapping[Region, Any], outside: set[int]) -> dict[Region, Any]:
    """Remainders without the arrays that only a program within knows."""
    told = lambda c: is_number(c) or isinstance(c, Lost) or id(c) in outside
    return {r: c if told(c) else Lost(_IN_A_LOOP) for r, c in remainders.items()}


def _while_again(run: _Run, equation: Any, values: list[Value], step: Step) -> list[Value]:
    p, (test, body) = equation.params, step.more
    a, b = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    axes = step.inputs[b:]
    flag = [axes[0][: p["cond_jaxpr"].out_avals[0].ndim] if axes else ()]
    carried = slice(b - a, len(values) - a)
    entering = _settled(run, p["body_jaxpr"], values[a:], carried, body, axes)
    carry, fixed = entering[b - a :], entering[: b - a]
    shapes = [v._replace(array=_shape_of(v.array)) for v in (*values[:a], *entering)]
    abstract = run._replace(computes=False)
    abstract.within(p["cond_jaxpr"], [*shapes[:a], *shapes[b:]], test, flag)
    abstract.within(p["body_jaxpr"], shapes[a:], body, axes)
    if not run.computes:
        return carry
    quiet = run._replace(leak=_unheard)
    inside = lambda program, constants, tape, own: (
        lambda c: tuple(
            v.array for v in quiet.within(program, [*constants, *_leaving(c, carry)], tape, own)
        )
    )
    going = inside(p["cond_jaxpr"], values[:a], test, flag)
    iteration = inside(p["body_jaxpr"], fixed, body, axes)

    def turn(carried: tuple[Any, ...]) -> tuple[Any, ...]:
        after, [alone] = iteration(carried), going(carried)
        if not alone.ndim:
            return after
        # Under vmap each example has an end of its own, and stands still from then on.
        spread = lambda x: lax.broadcast_in_dim(alone, x.shape, range(alone.ndim))
        pairs = zip(after, carried, strict=True)
        return tuple(jnp.where(spread(new), new, old) for new, old in pairs)

    arrays = lax.while_loop(lambda c: going(c)[0].any(), turn, tuple(v.array for v in carry))
    return _leaving(arrays, carry)


def _shard_map_again(run: _Run, equation: Any, values: list[Value], step: Step) -> list[Value]:
    p, [tape] = equation.params, step.more
    numbers = lambda own: [
        v._replace(remainders=_from_outside(v.remainders, set())) for v in own
    ]  # arrays of the whole are no arrays of each device
    entering = numbers(values)
    shapes = [
        _on_each(v.array, axes, variable.aval)
        for v, axes, variable in zip(values, step.inputs, p["jaxpr"].invars, strict=True)
    ]
    abstract = run._replace(computes=False)
    leaving = abstract.within(p["jaxpr"], _leaving(shapes, entering), tape, step.outputs)
    found = numbers(leaving)
    if not run.computes:
        return _leaving(run._outputs(values, step), found)
    quiet = run._replace(leak=_unheard)
    body = lambda *xs: tuple(
        v.array for v in quiet.within(p["jaxpr"], _leaving(xs, entering), tape, step.outputs)
    )
    options: Any = {"mesh": p["mesh"], "axis_names": set(p["newly_manual_axes"])}
    options |= {"in_specs": tuple(p["in_specs"]), "out_specs": tuple(p["out_specs"])}
    arrays = jax.shard_map(body, check_vma=p["check_vma"], **options)(*(v.array for v in values))
    return _leaving(arrays, found)


def _on_each(x: Any, axes: Axes, aval: Any) -> jax.ShapeDtypeStruct:
    """The shape of what each device has of an array: of axes that are not divided, what is left."""
    triples = zip(jnp.shape(x), axes, aval.shape, strict=True)
    shape = tuple(n if len(axis) == own else own for n, axis, own in triples)
    return jax.ShapeDtypeStruct(shape, aval.dtype)


def _linear_solve_again(run: _Run, equation: Any, values: list[Value], step: Step) -> list[Value]:
    """Gradients go by the equation that is solved, and not through the steps of a solver."""
    solvers, right = programs.linear_solvers(equation, values)
    tapes = dict(zip((name for name, *_ in solvers), step.more, strict=True))
    shapes = lambda own: [v._replace(array=_shape_of(v.array)) for v in own]
    abstract = run._replace(computes=False)
    _, solve, constants = solvers[0]
    axes = step.outputs
    leaving = abstract.within(solve, shapes([*constants, *right]), tapes["solve"], axes)
    own = {id(c) for v in values for c in v.remainders.values()}
    found = [v._replace(remainders=_from_outside(v.remainders, own)) for v in leaving]
    if not run.computes:
        return found
    quiet, ways = run._replace(leak=_unheard), {}
    for name, program, constants in solvers:
        ways[name] = lambda arrays, name=name, program=program, constants=constants: tuple(
            v.array
            for v in quiet.within(
                program, [*constants, *_leaving(arrays, right)], tapes[name], axes
            )
        )
    more = len(step.outputs) > len(right)
    split = lambda arrays: (arrays[: len(right)], arrays[len(right) :]) if more else arrays
    transposed = lambda _, arrays: split(ways["transpose_solve"](arrays))
    arrays = lax.custom_linear_solve(
        ways["matvec"],
        tuple(v.array for v in right),
        lambda _, arrays: split(ways["solve"](arrays)),
        transposed if "transpose_solve" in ways else None,
        has_aux=more,
    )
    return _leaving([*arrays[0], *arrays[1]] if more else arrays, found)


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
