"""Dead code elimination: equations that no output needs."""

from collections.abc import Sequence
from typing import Any

from jax.interpreters import partial_eval

__all__ = ["remove_dead_equations"]


def remove_dead_equations(program: Any) -> Any:
    """Returns the program without the equations that no output needs, also within loops and called programs.

    Inputs stay, whether they are read or not, and so does what has effects, such as printing.

    >>> import jax, jax.numpy as jnp
    >>> def fn(x):
    ...     jnp.sort(x)
    ...     return x + 1
    >>> [equation.primitive.name for equation in remove_dead_equations(jax.make_jaxpr(fn)(jnp.ones(3))).eqns]
    ['add']
    """
    jaxpr, _ = _remove_dead(program.jaxpr)
    while True:  # a loop that carries less needs less of what stands before it
        shortened, changed = _shorten_loops(jaxpr)
        if not changed:
            return program.replace(jaxpr=jaxpr)
        jaxpr, _ = _remove_dead(shortened)


def _remove_dead(
    jaxpr: Any, used: Sequence[bool] | None = None, needed: Sequence[bool] | None = None
) -> tuple[Any, list[bool]]:
    """Returns a jaxpr without the equations that no used output needs, and which of its inputs are left.

    Args:
      jaxpr: without constants.
      used: per output, whether it is used; `None`: all are.
      needed: per input, whether it stays in any case; `None`: all do.
    """
    used = [True] * len(jaxpr.outvars) if used is None else used
    needed = [True] * len(jaxpr.invars) if needed is None else needed
    return partial_eval.dce_jaxpr(jaxpr, list(used), instantiate=list(needed))


def _shorten_loops(jaxpr: Any) -> tuple[Any, bool]:
    """Returns the jaxpr with `while` loops that carry only what is needed, and whether it has changed.

    JAX shortens all other loops itself.
    """
    read_ids = {id(atom) for equation in jaxpr.eqns for atom in equation.invars}
    read_ids |= {id(atom) for atom in jaxpr.outvars}
    equations = []
    has_changed = False
    for equation in jaxpr.eqns:
        params = {name: _shorten_parameter(value) for name, value in equation.params.items()}
        if any(is_shortened for _, is_shortened in params.values()):
            equation = equation.replace(params={name: value for name, (value, _) in params.items()})
            has_changed = True
        if equation.primitive.name == "while":
            is_used = [id(variable) in read_ids for variable in equation.outvars]
            is_carried = _needed_carries(equation, is_used)
            if not all(is_carried):
                equation = _reduce_carries(equation, is_carried)
                has_changed = True
        equations.append(equation)
    return (jaxpr.replace(eqns=equations), True) if has_changed else (jaxpr, False)


def _shorten_parameter(value: Any) -> tuple[Any, bool]:
    """Returns a parameter of an equation with the loops in its programs shortened, and whether it changed."""
    if hasattr(value, "consts"):
        shortened, has_changed = _shorten_loops(value.jaxpr)
        return (value.replace(jaxpr=shortened), True) if has_changed else (value, False)
    if hasattr(value, "eqns"):
        return _shorten_loops(value)
    if not isinstance(value, tuple) or not any(hasattr(part, "eqns") for part in value):
        return value, False
    results = [_shorten_parameter(part) for part in value]
    programs = [program for program, _ in results]
    rebuild = getattr(type(value), "_make", tuple)
    return rebuild(programs), any(has_changed for _, has_changed in results)


def _needed_carries(equation: Any, used: Sequence[bool]) -> list[bool]:
    """Boolean per carried value of a loop: it is used after the loop, or needed for a value that is."""
    params = equation.params
    condition = params["cond_jaxpr"].jaxpr
    body = params["body_jaxpr"].jaxpr
    _, is_read = _remove_dead(condition, needed=[False] * len(condition.invars))
    is_carried = _elementwise_or(used, is_read[params["cond_nconsts"] :])
    while True:
        _, is_read = _remove_dead(body, is_carried, [False] * len(body.invars))
        carried_next = _elementwise_or(is_carried, is_read[params["body_nconsts"] :])
        if carried_next == is_carried:
            return is_carried
        is_carried = carried_next


def _elementwise_or(used: Sequence[bool], needed: Sequence[bool]) -> list[bool]:
    return [is_used or is_needed for is_used, is_needed in zip(used, needed, strict=True)]


def _reduce_carries(equation: Any, carried: Sequence[bool]) -> Any:
    """Returns a loop that carries only some of its values."""
    params = equation.params
    number_of_constants = params["cond_nconsts"] + params["body_nconsts"]

    def select(values: Sequence[Any]) -> list[Any]:
        return [value for value, is_carried in zip(values, carried, strict=True) if is_carried]

    condition, _ = _remove_dead(
        params["cond_jaxpr"].jaxpr, needed=[True] * params["cond_nconsts"] + list(carried)
    )
    body, _ = _remove_dead(
        params["body_jaxpr"].jaxpr, carried, [True] * params["body_nconsts"] + list(carried)
    )
    new_params = {
        **params,
        "cond_jaxpr": params["cond_jaxpr"].replace(jaxpr=condition),
        "body_jaxpr": params["body_jaxpr"].replace(jaxpr=body),
    }
    invars = [
        *equation.invars[:number_of_constants],
        *select(equation.invars[number_of_constants:]),
    ]
    return equation.replace(invars=invars, outvars=select(equation.outvars), params=new_params)
