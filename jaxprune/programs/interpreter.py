"""Evaluating a program equation by equation, with values that carry something along.

`run` is what JAX itself does with a jaxpr, except that a rule computes each equation. It serves all who must
see inside a function that they cannot edit: which axes of a kernel are inputs (`programs.kernels`), what
enters a kernel (`signals`), noise in products (`gates.apply`), which units are coupled (`structured`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax

__all__ = [
    "Rule",
    "bind",
    "bound",
    "called",
    "calls",
    "evaluate",
    "linear_solvers",
    "repeated",
    "run",
    "scanned",
    "trace",
]

Rule = Callable[[Any, list[Any]], list[Any]]

_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "composite": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_vmap_call": "call",
}


def trace(fn: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """The program of `fn(*args)`, and the structure of its outputs."""
    program, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    return program, jax.tree.structure(shape)


def run(
    program: Any,
    inputs: Sequence[Any],
    rule: Rule,
    *,
    enters: Callable[[Any], bool] = lambda equation: True,
) -> list[Any]:
    """Returns the outputs of a program.

    Programs that an equation calls once (`jit`, `remat`, `custom_jvp`) are run in its place, as if they were
    written there; loops and conditions are the rule's business.

    Args:
      program: a jaxpr with its constants.
      inputs: values of any type that the rule understands, one per input.
      rule: (equation, values of its inputs) -> values of its outputs. Literals and constants are arrays.
      enters: whether a called program is run in its equation's place; if not, the rule gets the equation.
    """
    jaxpr = getattr(program, "jaxpr", program)
    values = dict(zip(jaxpr.constvars, getattr(program, "consts", ()), strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        inner = called(equation)
        if inner is not None and enters(equation):
            outputs = run(inner, given, rule, enters=enters)
        else:
            outputs = rule(equation, given)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def evaluate(program: Any, inputs: Sequence[Any]) -> list[Any]:
    """What a program makes of arrays."""
    return run(program, inputs, bind)


def called(equation: Any) -> Any:
    """The program that an equation calls once with its inputs (jit, custom_jvp, remat), or `None`."""
    return equation.params.get(_CALLS.get(equation.primitive.name, ""))


def calls(name: str) -> bool:
    """Whether a primitive of this name calls a program once."""
    return name in _CALLS


def bind(equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """What the equation's primitive makes of arrays."""
    return bound(equation, inputs, equation.params)


def bound(equation: Any, inputs: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
    """What the equation's primitive makes of arrays with these parameters, where the equation stood.

    That is a mesh, for one: axes that a part of a program leaves to the compiler are explicit outside of it.
    """
    with equation.ctx.manager:
        outputs = equation.primitive.bind(
            *inputs, **equation.primitive.get_bind_params(dict(params))
        )
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def linear_solvers(
    equation: Any, inputs: Sequence[Any]
) -> tuple[list[tuple[str, Any, Sequence[Any]]], Sequence[Any]]:
    """Of a `custom_linear_solve`: name, program and constants of each part, and the right-hand sides.

    "solve" stands first; parts that are not there are left out.
    """
    lengths, parts = equation.params["const_lengths"]._asdict(), equation.params["jaxprs"]._asdict()
    constants: dict[str, Sequence[Any]] = {}
    start = 0
    for name, count in lengths.items():
        constants[name] = inputs[start : start + count]
        start += count
    order = sorted((name for name in parts if parts[name] is not None), key=lambda n: n != "solve")
    return [(name, parts[name], constants[name]) for name in order], inputs[start:]


def scanned(equation: Any) -> tuple[int, int]:
    """How many inputs of a scan are the same in each iteration, and how many are carried on."""
    params = equation.params
    if "ft_in" in params:  # from JAX 0.12 on
        fixed, carried, _ = params["ft_in"].unpack()
        return len(fixed), len(carried)
    return params["num_consts"], params["num_carry"]


def repeated(
    equation: Any,
    arrays: Sequence[Any],
    iteration: Callable[[list[Any]], list[Any]],
    length: int,
) -> list[Any]:
    """Runs a scan with another program in it.

    Args:
      equation: the scan.
      arrays: that go into it.
      iteration: what goes into its program -> what comes out, perhaps with more rows behind.
      length: number of iterations.
    """
    params = equation.params
    fixed, carried = scanned(equation)

    def body(carry: Any, rows: Any) -> Any:
        outputs = iteration([*arrays[:fixed], *carry, *rows])
        return tuple(outputs[:carried]), tuple(outputs[carried:])

    start = tuple(arrays[fixed : fixed + carried])
    rows = tuple(arrays[fixed + carried :])
    options = {"length": length, "reverse": params["reverse"], "unroll": params["unroll"]}
    carry, stacked = lax.scan(body, start, rows, **options)
    return [*carry, *stacked]
