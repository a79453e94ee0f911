"""Evaluating a program equation by equation, with values that carry something along.

`run` is what JAX itself does with a jaxpr, except that a rule computes each equation. It serves those who
must see inside a function that they cannot edit: noise in products (`gates.apply`), what enters a kernel
(`signals`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

__all__ = ["bind", "called", "evaluate", "run", "trace"]

Rule = Callable[[Any, list[Any]], list[Any]]

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


def trace(fn: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """The program of `fn(*args)`, and the structure of its outputs."""
    program, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    return program, jax.tree.structure(shape)


def run(program: Any, inputs: Sequence[Any], rule: Rule) -> list[Any]:
    """Returns the outputs of a program.

    Args:
      program: a jaxpr with its constants.
      inputs: values of any type that the rule understands, one per input.
      rule: (equation, values of its inputs) -> values of its outputs. Literals and constants are arrays.
    """
    jaxpr = getattr(program, "jaxpr", program)
    values = dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))
    read = lambda atom: atom.val if hasattr(atom, "val") else values[atom]
    for equation in jaxpr.eqns:
        outputs = rule(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def evaluate(program: Any, inputs: Sequence[Any]) -> list[Any]:
    """What a program makes of arrays."""

    def rule(equation: Any, values: list[Any]) -> list[Any]:
        inner = called(equation)
        return bind(equation, values) if inner is None else evaluate(inner, values)

    return run(program, inputs, rule)


def called(equation: Any) -> Any:
    """The program that an equation calls once with its inputs (jit, custom_jvp, remat), or `None`."""
    return equation.params.get(_CALLS.get(equation.primitive.name, ""))


def bind(equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """What the equation's primitive makes of arrays."""
    params = equation.primitive.get_bind_params(equation.params)
    found = equation.primitive.bind(*inputs, **params)
    return list(found) if equation.primitive.multiple_results else [found]
