"""Remainders of elementwise operations."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.programs import constants
from jaxprune.programs.primitives import ADDITIONS, IDENTITIES
from jaxprune.structured.graph.remainders.values import (
    EVERYWHERE,
    Lost,
    Places,
    Remainders,
    Value,
    evaluate_or_shape,
    is_number,
    is_zero,
    is_zero_product,
    lost_among,
    regions_of,
)
from jaxprune.structured.graph.rules import Step

__all__ = ["elementwise_remainders", "is_positive"]

# Zero, where all operands are zero.
_ZERO_TO_ZERO = frozenset(
    {"asinh", "atanh", "bessel_i1e", "ceil", "complex", "conj", "erf_inv", "imag", "real", "xor"}
)
_POSITIVE = frozenset(
    {"abs", "acosh", "cosh", "erfc", "exp", "exp2", "logistic", "rsqrt", "sqrt", "square"}
)
_POSITIVE_IF_ALL = (
    IDENTITIES | ADDITIONS | frozenset({"convert_element_type", "div", "min", "mul", "pow"})
)


def elementwise_remainders(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Any]:
    """Returns the remainders of each output."""
    name = equation.primitive.name
    if name in IDENTITIES:
        return [value.remainders for value in values]
    rank = len(step.outputs[0])
    cut_axes = [places.cut(axes) if len(axes) == rank else EVERYWHERE for axes in step.inputs]
    shapes_only = any(isinstance(value.array, jax.ShapeDtypeStruct) for value in values)
    remainders: Remainders = {}
    for region in regions_of(places.cut(step.outputs[0])):
        operands = [value.at(region & cut) for value, cut in zip(values, cut_axes, strict=True)]
        if len(step.outputs) > 1:  # bits of a generator, say
            remainders[region] = Lost(f"{name}, of which it is not known what it makes of zeros")
            continue
        content = _compute_content(equation, operands, shapes_only)
        if not is_zero(content):
            remainders[region] = content
    all_known = len(step.outputs) == 1 and all(EVERYWHERE in value.remainders for value in values)
    if all_known:
        numbers = [value.remainders[EVERYWHERE] for value in values]
        content = _compute_content(equation, numbers, shapes_only)
        if is_number(content):
            remainders[EVERYWHERE] = content
    return [remainders] * len(step.outputs)


def is_positive(equation: Any, values: Sequence[Value]) -> bool:
    """Whether no element of the output is negative, as far as is known."""
    name = equation.primitive.name
    if equation.outvars[0].aval.dtype == bool or name in _POSITIVE:
        return True
    if name == "integer_pow" and equation.params["y"] % 2 == 0:
        return True
    if name == "select_n":
        return all(value.positive for value in values[1:])
    if name == "clamp":
        return values[0].positive
    if name == "max":
        return any(value.positive for value in values)
    return name in _POSITIVE_IF_ALL and all(value.positive for value in values)


def _compute_content(equation: Any, operands: list[Any], shapes_only: bool) -> Any:
    """Returns what an equation makes of contents; of arrays, where nothing is computed, their shape."""
    name = equation.primitive.name
    dtype = equation.outvars[0].aval.dtype
    zero = np.zeros((), dtype)[()]
    if name == "mul":
        if is_zero_product(*operands):
            return zero
        if any(is_zero(operand) for operand in operands):
            return Lost(
                "zeros of removed units are multiplied with what is infinite for zeros",
                is_finite=False,
            )
    if name == "div" and is_zero(operands[0]) and not is_number(operands[1]):
        return zero
    if name in ADDITIONS and is_zero(operands[0]):
        return operands[1]
    if name in (*ADDITIONS, "sub") and is_zero(operands[1]):
        return operands[0]
    facts = [
        constants.Fact(operand) if is_number(operand) else constants.UNKNOWN for operand in operands
    ]
    if any(fact.known for fact in facts):
        [outcome] = constants.propagate_equation(equation, facts)
        if outcome.known:
            return outcome.value
    if name in _ZERO_TO_ZERO and all(map(is_zero, operands)):
        return zero
    lost = lost_among(operands)
    if lost:
        return lost
    rank = max((len(variable.aval.shape) for variable in equation.invars), default=0)

    def run(*contents: Any) -> Any:
        arrays = [
            jnp.asarray(content, variable.aval.dtype)
            for content, variable in zip(contents, equation.invars, strict=True)
        ]
        arrays = [array if array.ndim else array.reshape((1,) * rank) for array in arrays]
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        return programs.bind(equation, [jnp.broadcast_to(array, shape) for array in arrays])[0]

    if all(map(is_number, operands)):  # so is the result
        with contextlib.suppress(NotImplementedError), jax.ensure_compile_time_eval():
            return np.asarray(run(*operands)).flat[0]  # not of primitives that only compile
    return jax.eval_shape(run, *operands) if shapes_only else evaluate_or_shape(run, *operands)
