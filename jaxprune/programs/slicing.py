"""Program slicing: a program's outputs are computed, and nothing that they do not need.

Unlike dead code elimination this leaves out effects too, such as printing, and what only the other outputs of
a condition or a called program need.
"""

from collections.abc import Sequence
from typing import Any

import jax

from jaxprune.programs.interpreter import bind, called_program

__all__ = ["evaluate_slice"]


def evaluate_slice(program: Any, inputs: Sequence[Any]) -> list[Any]:
    """Returns the outputs of a program for arrays; both branches of a condition are computed.

    Args:
      program: a jaxpr with its constants.
      inputs: one array per input.

    >>> import jax.numpy as jnp
    >>> def fn(x):
    ...     jax.debug.print("not seen")
    ...     return x + 1
    >>> evaluate_slice(jax.make_jaxpr(fn)(1.0), [jnp.ones(2)])
    [Array([2., 2.], dtype=float32)]
    """
    return _outputs(program, inputs, [True] * len(program.jaxpr.outvars))


def _outputs(program: Any, inputs: Sequence[Any], used: Sequence[bool]) -> list[Any]:
    """Returns the used outputs of a program, and `None` for the others."""
    jaxpr = getattr(program, "jaxpr", program)
    values = dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))
    used_outputs, _ = _slice(jaxpr, used)

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values.get(atom)

    for equation, is_used in zip(jaxpr.eqns, used_outputs, strict=True):
        if not any(is_used):
            continue
        operands = [read(atom) for atom in equation.invars]
        called = called_program(equation)
        if called is not None:
            outputs = _outputs(called, operands, is_used)
        elif equation.primitive.name == "cond":
            outputs = _chosen_outputs(equation, operands, is_used)
        else:
            outputs = bind(equation, operands)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [
        read(atom) if is_used else None for atom, is_used in zip(jaxpr.outvars, used, strict=True)
    ]


def _chosen_outputs(equation: Any, operands: list[Any], used: Sequence[bool]) -> list[Any]:
    """Returns the used outputs of a condition, chosen element by element."""
    index, *arguments = operands
    branches = [_outputs(branch, arguments, used) for branch in equation.params["branches"]]
    return [
        jax.lax.select_n(index, *cases) if is_used else None
        for is_used, *cases in zip(used, *branches, strict=True)
    ]


def _slice(jaxpr: Any, used: Sequence[bool]) -> tuple[list[list[bool]], list[bool]]:
    """Returns, per equation, which of its outputs the used outputs need, and which inputs they need."""
    needed: set[Any] = set()

    def need(atoms: Sequence[Any], flags: Sequence[bool]) -> None:
        needed.update(
            atom
            for atom, is_needed in zip(atoms, flags, strict=True)
            if is_needed and not hasattr(atom, "val")
        )

    need(jaxpr.outvars, used)
    used_outputs = []
    for equation in reversed(jaxpr.eqns):
        is_used = [variable in needed for variable in equation.outvars]
        used_outputs.append(is_used)
        if any(is_used):
            need(equation.invars, _needed_operands(equation, is_used))
    return used_outputs[::-1], [variable in needed for variable in jaxpr.invars]


def _needed_operands(equation: Any, used: Sequence[bool]) -> list[bool]:
    """Returns which operands of an equation its used outputs need."""
    called = called_program(equation)
    if called is not None:
        return _slice(getattr(called, "jaxpr", called), used)[1]
    if equation.primitive.name == "cond":
        branches = [_slice(branch.jaxpr, used)[1] for branch in equation.params["branches"]]
        return [True, *(any(flags) for flags in zip(*branches, strict=True))]
    return [True] * len(equation.invars)
