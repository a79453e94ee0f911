"""Runs a program equation by equation, with values of any type.

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
    "bind_with",
    "called_program",
    "count_scan_inputs",
    "evaluate",
    "is_call",
    "linear_solvers",
    "run",
    "run_scan",
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
    """Returns the program of `fn(*args)`, and the structure of its outputs."""
    program, shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    return program, jax.tree.structure(shape)


def run(
    program: Any,
    inputs: Sequence[Any],
    rule: Rule,
    *,
    enters: Callable[[Any], bool] = lambda equation: True,
) -> list[Any]:
    """Returns the outputs of a program, each equation computed by a rule.

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
        operands = [read(atom) for atom in equation.invars]
        inner_program = called_program(equation)
        if inner_program is not None and enters(equation):
            outputs = run(inner_program, operands, rule, enters=enters)
        else:
            outputs = rule(equation, operands)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def evaluate(program: Any, inputs: Sequence[Any]) -> list[Any]:
    """Returns the outputs of a program for arrays."""
    return run(program, inputs, bind)


def called_program(equation: Any) -> Any:
    """Returns the program that an equation calls once with its inputs (jit, custom_jvp, remat), or `None`."""
    return equation.params.get(_CALLS.get(equation.primitive.name, ""))


def is_call(name: str) -> bool:
    """Whether a primitive of this name calls a program once."""
    return name in _CALLS


def bind(equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """Returns the outputs of the equation's primitive for arrays."""
    return bind_with(equation, inputs, equation.params)


def bind_with(equation: Any, inputs: Sequence[Any], params: Mapping[str, Any]) -> list[Any]:
    """Returns the outputs of the equation's primitive with these parameters, in the equation's own context.

    The context is the mesh, for one: axes that a part of a program leaves to the compiler are explicit
    outside of it.
    """
    with equation.ctx.manager:
        outputs = equation.primitive.bind(
            *inputs, **equation.primitive.get_bind_params(dict(params))
        )
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def linear_solvers(
    equation: Any, inputs: Sequence[Any]
) -> tuple[list[tuple[str, Any, Sequence[Any]]], Sequence[Any]]:
    """Returns the parts of a `custom_linear_solve` (name, program, constants) and its right-hand sides.

    "solve" stands first; parts that are not there are left out.
    """
    constant_counts = equation.params["const_lengths"]._asdict()
    programs = equation.params["jaxprs"]._asdict()
    constants: dict[str, Sequence[Any]] = {}
    begin = 0
    for name, count in constant_counts.items():
        constants[name] = inputs[begin : begin + count]
        begin += count
    part_names = sorted(
        (name for name in programs if programs[name] is not None),
        key=lambda part_name: part_name != "solve",
    )
    return [(name, programs[name], constants[name]) for name in part_names], inputs[begin:]


def count_scan_inputs(equation: Any) -> tuple[int, int]:
    """Returns the number of inputs of a scan that are constant, and of those that are carried."""
    params = equation.params
    if "ft_in" in params:  # from JAX 0.12 on
        constants, carries, _ = params["ft_in"].unpack()
        return len(constants), len(carries)
    return params["num_consts"], params["num_carry"]


def run_scan(
    equation: Any,
    arrays: Sequence[Any],
    iteration: Callable[[list[Any]], list[Any]],
    length: int,
) -> list[Any]:
    """Runs a scan with another body.

    Args:
      equation: the scan.
      arrays: its inputs.
      iteration: the body: inputs of the scan's program -> its outputs, perhaps with more rows behind.
      length: number of iterations.

    Returns:
      The outputs of the scan, then the stacked rows that `iteration` gives beside them.
    """
    params = equation.params
    number_of_constants, number_of_carries = count_scan_inputs(equation)

    def body(carry: Any, rows: Any) -> Any:
        outputs = iteration([*arrays[:number_of_constants], *carry, *rows])
        return tuple(outputs[:number_of_carries]), tuple(outputs[number_of_carries:])

    initial_carry = tuple(arrays[number_of_constants : number_of_constants + number_of_carries])
    rows = tuple(arrays[number_of_constants + number_of_carries :])
    options = {"length": length, "reverse": params["reverse"], "unroll": params["unroll"]}
    carry, stacked = lax.scan(body, initial_carry, rows, **options)
    return [*carry, *stacked]
