"""Remainders of the outputs of an equation, from those of its inputs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.programs.primitives import ELEMENTWISE
from jaxprune.structured.graph.remainders.arrangements import AXES
from jaxprune.structured.graph.remainders.computed import COMPUTED
from jaxprune.structured.graph.remainders.entrywise import elementwise_remainders, is_positive
from jaxprune.structured.graph.remainders.indexing import INDEXING
from jaxprune.structured.graph.remainders.lines import LINES, line_remainders
from jaxprune.structured.graph.remainders.slicing import SLICING
from jaxprune.structured.graph.remainders.sums import SUMS
from jaxprune.structured.graph.remainders.values import (
    EVERYWHERE,
    Leak,
    Lost,
    Places,
    Value,
    evaluate_or_shape,
    regions_of,
)
from jaxprune.structured.graph.rules import Step, elementwise, rule_of

__all__ = ["follow_remainders"]

ARRANGEMENTS = {**AXES, **SLICING, **INDEXING}

_KEEPS_THE_SIGN = frozenset(
    {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "cumsum", "cumprod", "cummax"}
    | {"cummin", "reduce_window_max", "reduce_window_sum", "dot_general", "conv_general_dilated"}
) | (ARRANGEMENTS.keys() - {"gather", "random_bits"})


def follow_remainders(
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
    is_cut = any(map(places.cut, (*step.inputs, *step.outputs)))
    if not is_cut and not any(EVERYWHERE in value.remainders for value in values):
        return [Value(array) for array in outputs]
    owed: list[Any] = []
    if name in ELEMENTWISE or _is_elementwise(name):
        remainders = elementwise_remainders(equation, values, step, places)
        positive = is_positive(equation, values)
        return [
            Value(array, remainder, positive)
            for array, remainder in zip(outputs, remainders, strict=True)
        ]
    if name in ARRANGEMENTS:
        remainders = ARRANGEMENTS[name](equation, values, step, places)
    elif name in SUMS:
        owed, remainders = SUMS[name](equation, values, step, places, leak)
    elif name in COMPUTED:
        remainders = COMPUTED[name](equation, values, step, places, leak)
    elif name in LINES:
        remainders = line_remainders(equation, values, step, places)
    else:
        remainders = _unknown_remainders(step, places, leak)
    positive = name in _KEEPS_THE_SIGN and all(value.positive for value in values)
    if owed and not isinstance(outputs[0], jax.ShapeDtypeStruct):
        outputs = [evaluate_or_shape(_add_owed, outputs[0], *owed)]
    return [
        Value(array, remainder, positive)
        for array, remainder in zip(outputs, remainders, strict=True)
    ]


def _add_owed(array: Any, *owed: Any) -> Any:
    """Returns a sum over what is left, with what removed units would have added."""
    return sum(owed, jnp.asarray(array)).astype(array.dtype)


def _is_elementwise(name: str) -> bool:
    """Whether a primitive has the rule of elementwise ones, as one of a user's own may have."""
    rule = rule_of(name)
    return rule is not None and rule.label is elementwise


def _unknown_remainders(step: Step, places: Places, leak: Leak) -> list[Any]:
    """Returns the remainders of a primitive of which it is not known what it makes of zeros: all are lost."""
    reason = f"{step.equation.primitive.name}, of which it is not known what it makes of zeros"
    output_ids = {id(axis) for axes in step.outputs for axis in axes}
    summed_axes = [
        axes[i] for axes in step.inputs for i in places.cut(axes) if id(axes[i]) not in output_ids
    ]
    if summed_axes:
        leak(reason, tuple(summed_axes))
    return [dict.fromkeys(regions_of(places.cut(axes)), Lost(reason)) for axes in step.outputs]
