"""Floating-point operations per parameter, read off a program."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from jaxprune.types import Params

if TYPE_CHECKING:
    from jax.extend import core  # takes long to import

__all__ = ["flops"]


def flops(fn: Callable[..., Any], params: Params, *inputs: Any) -> Params:
    r"""Returns how many operations each parameter takes part in when `fn(params, *inputs)` is called.

    Counted are matrix products and convolutions, two operations for a product and its sum: $2 b m n$ of a
    dense layer, $2 b h w k_h k_w c_{in} c_{out}$ of a convolution with $h \times w$ outputs, its padding
    included. Additions, norms, lookups and products of two activations (attention scores) are not. In a
    scan each turn counts; of the branches of a condition the costliest; a `while` loop is one turn.

    Args:
      fn: any JAX function; it is traced, not run.
      params: tree of arrays.
      *inputs: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      A tree like `params` of Python integers.

    >>> import jax.numpy as jnp
    >>> params = {"kernel": jnp.ones((3, 4)), "scale": jnp.ones(())}
    >>> flops(lambda p, x: x @ p["kernel"] * p["scale"], params, jnp.ones((2, 3)))
    {'kernel': 48, 'scale': 0}
    """
    program = jax.make_jaxpr(fn)(params, *inputs)
    leaves, treedef = jax.tree.flatten(params)
    owners = [*range(len(leaves)), *[None] * (len(program.in_avals) - len(leaves))]
    counts = [0] * len(leaves)
    _count(program, owners, counts)
    return treedef.unflatten(counts)


def _count(
    program: "core.ClosedJaxpr | core.Jaxpr", owners: Sequence[int | None], counts: list[int]
) -> list[int | None]:
    """Adds a program's operations to `counts`; returns which parameter each output still is."""
    jaxpr = getattr(program, "jaxpr", program)
    owner: dict[core.Var, int | None] = dict(zip(jaxpr.invars, owners, strict=True))
    read = lambda atom: None if hasattr(atom, "val") else owner.get(atom)
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outputs = _equation(equation, inputs, counts)
        owner.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(equation: "core.JaxprEqn", inputs: list[int | None], counts: list[int]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    nothing = [None] * len(equation.outvars)
    if name in _PRODUCTS:
        for owner in {i for i in inputs if i is not None}:
            counts[owner] += _PRODUCTS[name](equation)
        return nothing
    if name in _MOVED:
        return [inputs[0]] * len(equation.outvars)
    if name == "cond":
        branches = [[0] * len(counts) for _ in params["branches"]]
        for branch, found in zip(params["branches"], branches, strict=True):
            _count(branch, inputs[1:], found)
        _add(counts, max(branches, key=sum))
        return nothing
    if name == "scan":
        turn = [0] * len(counts)
        _count(params["jaxpr"], inputs, turn)
        _add(counts, [params["length"] * n for n in turn])
        return nothing
    if name == "while":
        _count(params["body_jaxpr"], inputs[params["cond_nconsts"] :], counts)
        return nothing
    called = next((params[key] for key in _CALLED if key in params), None)
    return nothing if called is None else _count(called, inputs, counts)


def _add(counts: list[int], more: list[int]) -> None:
    counts[:] = map(sum, zip(counts, more, strict=True))


def _dot(equation: "core.JaxprEqn") -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
    return 2 * math.prod(out) * math.prod(left[d] for d in contracted)


def _convolution(equation: "core.JaxprEqn") -> int:
    kernel, out = _shape(equation.invars[1]), _shape(equation.outvars[0])
    channels = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(out) * math.prod(kernel) // channels


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


_PRODUCTS = {"dot_general": _dot, "conv_general_dilated": _convolution}
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_MOVED = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
    "dynamic_slice",
    "optimization_barrier",
    "reduce_precision",
    "reshape",
    "rev",
    "slice",
    "squeeze",
    "transpose",
}
