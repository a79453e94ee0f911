"""Remainders of what an equation gives, from those of what goes into it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.programs.primitives import ELEMENTWISE
from jaxprune.structured.remainders.arrangements import ARRANGEMENTS
from jaxprune.structured.remainders.computed import COMPUTED
from jaxprune.structured.remainders.entrywise import entrywise, positive
from jaxprune.structured.remainders.lines import LINES, along
from jaxprune.structured.remainders.sums import SUMS
from jaxprune.structured.remainders.values import (
    EVERYWHERE,
    Leak,
    Lost,
    Places,
    Value,
    evaluated,
    regions_of,
)
from jaxprune.structured.rules import Step, elementwise, rule_of

__all__ = ["follow"]

_KEEPS_THE_SIGN = frozenset(
    {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "cumsum", "cumprod", "cummax"}
    | {"cummin", "reduce_window_max", "reduce_window_sum", "dot_general", "conv_general_dilated"}
) | (ARRANGEMENTS.keys() - {"gather", "random_bits"})


def follow(
    values: Sequence[Value], outputs: Sequence[Any], step: Step, places: Places, leak: Leak
) -> list[Value]:
    """Returns the outputs of an equation, complete and with their remainders.

    Args:
      values: what goes into it.
      outputs: what it makes of what is left, or the shapes of that.
      step: the equation as it was followed.
      places: which are left.
      leak: is told where a sum over units owes removed ones something that cannot be told.
    """
    equation = step.equation
    name = equation.primitive.name
    cut = any(map(places.cut, (*step.inputs, *step.outputs)))
    if not cut and not any(EVERYWHERE in value.remainders for value in values):
        return [Value(x) for x in outputs]
    owed: list[Any] = []
    if name in ELEMENTWISE or _is_elementwise(name):
        remainders = entrywise(equation, values, step, places)
        sign = positive(equation, values)
        return [Value(x, r, sign) for x, r in zip(outputs, remainders, strict=True)]
    if name in ARRANGEMENTS:
        remainders = ARRANGEMENTS[name](equation, values, step, places)
    elif name in SUMS:
        owed, remainders = SUMS[name](equation, values, step, places, leak)
    elif name in COMPUTED:
        remainders = COMPUTED[name](equation, values, step, places, leak)
    elif name in LINES:
        remainders = along(equation, values, step, places)
    else:
        remainders = _unknown(step, places, leak)
    sign = name in _KEEPS_THE_SIGN and all(value.positive for value in values)
    if owed and not isinstance(outputs[0], jax.ShapeDtypeStruct):
        total = lambda x, *parts: sum(parts, jnp.asarray(x)).astype(x.dtype)
        outputs = [evaluated(total, outputs[0], *owed)]
    return [Value(x, r, sign) for x, r in zip(outputs, remainders, strict=True)]


def _is_elementwise(name: str) -> bool:
    """Whether a primitive is said to go entry by entry, as one of a user's own may be."""
    known = rule_of(name)
    return known is not None and known.label is elementwise


def _unknown(step: Step, places: Places, leak: Leak) -> list[Any]:
    """Nothing is known of what a primitive makes of zeros."""
    reason = f"{step.equation.primitive.name}, of which it is not known what it makes of zeros"
    leaving = {id(axis) for axes in step.outputs for axis in axes}
    summed = [
        axes[i] for axes in step.inputs for i in places.cut(axes) if id(axes[i]) not in leaving
    ]
    if summed:
        leak(reason, tuple(summed))
    return [dict.fromkeys(regions_of(places.cut(axes)), Lost(reason)) for axes in step.outputs]
