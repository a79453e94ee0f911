"""Which leaves of an optimizer state hold several parameters in one vector, as `optax.flatten` makes them.

Such a vector is of no parameter's shape and at no parameter's path: what is in it is read off the program of
`init`, which joins the parameters to one vector of that size.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.programs import run
from jaxprune.transforms.memo import Memo, weak
from jaxprune.types import Params

__all__ = ["raveled_parameters"]


def raveled_parameters(
    inner: optax.GradientTransformation, params: Params, leaves: Sequence[Any]
) -> list[set[tuple[int, ...]]]:
    """Returns, per leaf of a state, which parameters may be in it: their indices, one after the other.

    Args:
      inner: the optimizer.
      params: tree of arrays.
      leaves: of its state; those that are no vectors of floating-point numbers hold nothing.
    """

    def size_of_vector(leaf: Any) -> int | None:
        is_floating = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        return jnp.size(leaf) if is_floating and jnp.ndim(leaf) == 1 else None

    sizes = [size_of_vector(leaf) for leaf in leaves]
    if not any(sizes):
        return [set() for _ in leaves]
    parameters, treedef = jax.tree.flatten(params)
    types = tuple(jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)) for p in parameters)
    question = (weak(inner.init), treedef, types)
    found = _MEMO.answer(question, lambda: _vectors_of(inner.init, treedef.unflatten(types)))
    return [found.get(size, set()) for size in sizes]


_MEMO = Memo()


class _Vector:
    """A value of a program that holds parameters, their elements in order; compared by identity."""

    def __init__(self, indices: tuple[int, ...]):
        self.indices = indices


def _vectors_of(init: Any, params: Params) -> dict[int | None, set[tuple[int, ...]]]:
    """The vectors of parameters that a program of `init` makes last, by size."""
    program = jax.make_jaxpr(init)(params)
    made: dict[_Vector, int] = {}  # their sizes

    def rule(equation: Any, operands: list[Any]) -> list[Any]:
        outputs: list[Any] = [None] * len(equation.outvars)
        if not all(isinstance(operand, _Vector) for operand in operands):
            return outputs
        if not _keeps_order(equation):
            return outputs
        vector = _Vector(tuple(index for operand in operands for index in operand.indices))
        for operand in operands:  # a part of it, or the same in other words
            made.pop(operand, None)
        shape = equation.outvars[0].aval.shape
        if len(shape) == 1:
            made[vector] = shape[0]
        return [vector]

    inputs = [_Vector((index,)) for index in range(len(program.jaxpr.invars))]
    if len(inputs) == 1 and len(program.in_avals[0].shape) == 1:
        made[inputs[0]] = program.in_avals[0].shape[0]  # a vector already
    run(program, inputs, rule)
    found: dict[int | None, set[tuple[int, ...]]] = {}
    for vector, size in made.items():
        found.setdefault(size, set()).add(vector.indices)
    return found


def _keeps_order(equation: Any) -> bool:
    """Whether an equation leaves the elements of its operands in their order, one operand after the other."""
    name = equation.primitive.name
    if name == "concatenate":
        return len(equation.outvars[0].aval.shape) == 1
    return name == "convert_element_type" or (
        name == "reshape" and equation.params["dimensions"] is None
    )
