"""What a program computes for nobody."""

from collections.abc import Sequence
from typing import Any

from jax.interpreters import partial_eval

__all__ = ["live"]


def live(program: Any) -> Any:
    """The program without the equations that no output needs, also within loops and called programs.

    Inputs stay, whether they are read or not, and so does what has effects, such as printing.

    >>> import jax, jax.numpy as jnp
    >>> def fn(x):
    ...     jnp.sort(x)
    ...     return x + 1
    >>> [equation.primitive.name for equation in live(jax.make_jaxpr(fn)(jnp.ones(3))).eqns]
    ['add']
    """
    jaxpr, _ = _without_dead(program.jaxpr)
    while True:  # a loop that carries less needs less of what stands before it
        shorter, changed = _loops_shortened(jaxpr)
        if not changed:
            return program.replace(jaxpr=jaxpr)
        jaxpr, _ = _without_dead(shorter)


def _without_dead(
    jaxpr: Any, used: Sequence[bool] | None = None, needed: Sequence[bool] | None = None
) -> tuple[Any, list[bool]]:
    """A jaxpr without what the used outputs do not need, and which of its inputs are left.

    Args:
      jaxpr: without constants.
      used: per output; `None`: all are.
      needed: per input, whether it stays in any case; `None`: all do.
    """
    used = [True] * len(jaxpr.outvars) if used is None else used
    needed = [True] * len(jaxpr.invars) if needed is None else needed
    return partial_eval.dce_jaxpr(jaxpr, list(used), instantiate=list(needed))


def _loops_shortened(jaxpr: Any) -> tuple[Any, bool]:
    """`while` loops carry on only what is needed; JAX shortens all others itself."""
    read = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    read |= {id(atom) for atom in jaxpr.outvars}
    equations, changed = [], False
    for equation in jaxpr.eqns:
        params = {name: _within(value) for name, value in equation.params.items()}
        if any(inner for _, inner in params.values()):
            equation = equation.replace(params={name: value for name, (value, _) in params.items()})
            changed = True
        if equation.primitive.name == "while":
            used = [id(variable) in read for variable in equation.outvars]
            carried = _carried(equation, used)
            if not all(carried):
                equation, changed = _carrying(equation, carried), True
        equations.append(equation)
    return (jaxpr.replace(eqns=equations), True) if changed else (jaxpr, False)


def _within(value: Any) -> tuple[Any, bool]:
    """A parameter of an equation, with the loops in its programs shortened."""
    if hasattr(value, "consts"):
        shorter, changed = _loops_shortened(value.jaxpr)
        return (value.replace(jaxpr=shorter), True) if changed else (value, False)
    if hasattr(value, "eqns"):
        return _loops_shortened(value)
    if not isinstance(value, tuple) or not any(hasattr(v, "eqns") for v in value):
        return value, False
    pairs = [_within(v) for v in value]
    programs = [program for program, _ in pairs]
    rebuild = getattr(type(value), "_make", tuple)
    return rebuild(programs), any(changed for _, changed in pairs)


def _carried(equation: Any, used: Sequence[bool]) -> list[bool]:
    """Which values a loop must carry on: those that are used after it, and what they and its end need."""
    p = equation.params
    test, body = p["cond_jaxpr"].jaxpr, p["body_jaxpr"].jaxpr
    _, read = _without_dead(test, needed=[False] * len(test.invars))
    carried = [a or b for a, b in zip(used, read[p["cond_nconsts"] :], strict=True)]
    while True:
        _, read = _without_dead(body, carried, [False] * len(body.invars))
        more = [a or b for a, b in zip(carried, read[p["body_nconsts"] :], strict=True)]
        if more == carried:
            return carried
        carried = more


def _carrying(equation: Any, carried: Sequence[bool]) -> Any:
    """A loop that carries on only some of its values."""
    p = equation.params
    constants = p["cond_nconsts"] + p["body_nconsts"]
    kept = lambda values: [value for value, wanted in zip(values, carried, strict=True) if wanted]
    test, _ = _without_dead(
        p["cond_jaxpr"].jaxpr, needed=[True] * p["cond_nconsts"] + list(carried)
    )
    body, _ = _without_dead(
        p["body_jaxpr"].jaxpr, carried, [True] * p["body_nconsts"] + list(carried)
    )
    params = {
        **p,
        "cond_jaxpr": p["cond_jaxpr"].replace(jaxpr=test),
        "body_jaxpr": p["body_jaxpr"].replace(jaxpr=body),
    }
    invars = [*equation.invars[:constants], *kept(equation.invars[constants:])]
    return equation.replace(invars=invars, outvars=kept(equation.outvars), params=params)
