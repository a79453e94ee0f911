"""Remainders of what is computed entry by entry."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.programs import constants
from jaxprune.programs.primitives import ADDITIONS, IDENTITIES
from jaxprune.structured.remainders.values import (
    EVERYWHERE,
    Lost,
    Places,
    Region,
    Value,
    evaluated,
    is_nothing,
    is_number,
    is_zero,
    regions_of,
)
from jaxprune.structured.rules import Step

__all__ = ["entrywise", "positive"]

# Zero stays zero, where all operands are.
_ZERO_TO_ZERO = frozenset(
    {"asinh", "atanh", "bessel_i1e", "ceil", "complex", "conj", "erf_inv", "imag", "real", "xor"}
)
_POSITIVE = frozenset(
    {"abs", "acosh", "cosh", "erfc", "exp", "exp2", "logistic", "rsqrt", "sqrt", "square"}
)
_POSITIVE_IF_ALL = (
    IDENTITIES | ADDITIONS | frozenset({"convert_element_type", "div", "min", "mul", "pow"})
)


def entrywise(equation: Any, values: Sequence[Value], step: Step, places: Places) -> list[Any]:
    """The remainders of the outputs, for each of them by region."""
    name = equation.primitive.name
    if name in IDENTITIES:
        return [value.remainders for value in values]
    rank = len(step.outputs[0])
    cuts = [places.cut(axes) if len(axes) == rank else EVERYWHERE for axes in step.inputs]
    shapes_only = any(isinstance(value.array, jax.ShapeDtypeStruct) for value in values)
    found: dict[Region, Any] = {}
    for region in regions_of(places.cut(step.outputs[0])):
        operands = [value.at(region & cut) for value, cut in zip(values, cuts, strict=True)]
        if len(step.outputs) > 1:  # bits of a generator, say
            lost = Lost(f"{name}, of which it is not known what it makes of zeros")
            found[region] = lost
            continue
        content = _entry(equation, operands, shapes_only)
        if not is_zero(content):
            found[region] = content
    known = len(step.outputs) == 1 and all(EVERYWHERE in value.remainders for value in values)
    if known:
        content = _entry(equation, [v.remainders[EVERYWHERE] for v in values], shapes_only)
        if is_number(content):
            found[EVERYWHERE] = content
    return [found] * len(step.outputs)


def positive(equation: Any, values: Sequence[Value]) -> bool:
    """Whether no entry of the output is negative, as far as is known."""
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


def _entry(equation: Any, operands: list[Any], shapes_only: bool) -> Any:
    """What an equation makes of contents; of arrays their shape, where nothing is computed."""
    name = equation.primitive.name
    dtype = equation.outvars[0].aval.dtype
    zero = np.zeros((), dtype)[()]
    if name == "mul":
        if is_nothing(*operands):
            return zero
        if any(is_zero(x) for x in operands):
            return Lost("zeros of removed units are multiplied with what is infinite for zeros")
    if name == "div" and is_zero(operands[0]) and not is_number(operands[1]):
        return zero
    if name in ADDITIONS and is_zero(operands[0]):
        return operands[1]
    if name in (*ADDITIONS, "sub") and is_zero(operands[1]):
        return operands[0]
    facts = [constants.Fact(x) if is_number(x) else constants.UNKNOWN for x in operands]
    if any(fact.known for fact in facts):
        [known] = constants.propagate_equation(equation, facts)
        if known.known:
            return known.value
    if name in _ZERO_TO_ZERO and all(map(is_zero, operands)):
        return zero
    for x in operands:
        if isinstance(x, Lost):
            return x
    rank = max((len(a.aval.shape) for a in equation.invars), default=0)

    def computed(*contents: Any) -> Any:
        arrays = [
            jnp.asarray(x, a.aval.dtype) for x, a in zip(contents, equation.invars, strict=True)
        ]
        arrays = [x if x.ndim else x.reshape((1,) * rank) for x in arrays]
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        return programs.bind(equation, [jnp.broadcast_to(x, shape) for x in arrays])[0]

    return jax.eval_shape(computed, *operands) if shapes_only else evaluated(computed, *operands)
