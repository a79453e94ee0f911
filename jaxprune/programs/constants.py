"""Constant propagation: which values of a program are the same number everywhere, told before it runs.

A jaxpr is followed with what is known of its inputs, and nothing else. Zero times or over anything is taken
for zero, as if nothing became infinite.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxprune.calls import is_traced
from jaxprune.programs.fills import fill_of_lookup
from jaxprune.programs.interpreter import run
from jaxprune.programs.primitives import IDENTITIES, JOINING, REARRANGING

if TYPE_CHECKING:
    from jax.extend import core  # takes long to import

__all__ = ["UNKNOWN", "Fact", "fact_of_constant", "fact_of_zero", "propagate", "propagate_equation"]


@dataclasses.dataclass(frozen=True)
class Fact:
    """What is known of an array: its value, off the mask of a leaf or everywhere.

    Attributes:
      value: a NumPy scalar, or `None` if nothing is known.
      leaf: index of the parameter off whose mask the value holds; `None`: it holds everywhere.
    """

    value: Any = None
    leaf: int | None = None

    @property
    def known(self) -> bool:
        """Whether the value is known."""
        return self.value is not None

    def is_zero(self) -> bool:
        """Whether the value is known to be zero."""
        return self.known and bool(self.value == 0)


UNKNOWN = Fact()


def fact_of_zero(aval: Any) -> Fact:
    """Returns the fact that a value is zero everywhere; `UNKNOWN` for PRNG keys and the like."""
    return Fact(np.zeros((), aval.dtype)[()]) if isinstance(aval.dtype, np.dtype) else UNKNOWN


def propagate(program: "core.ClosedJaxpr", inputs: Sequence[Fact]) -> list[Fact]:
    """Returns what is known of the outputs of a program, from what is known of its inputs."""
    outputs = getattr(program, "jaxpr", program).outvars  # an open jaxpr has no consts
    values = run(program, inputs, propagate_equation)
    return [
        fact_of_constant(value, variable.aval)
        for value, variable in zip(values, outputs, strict=True)
    ]


def fact_of_constant(value: Any, aval: Any) -> Fact:
    """Returns the fact itself, or that of a constant of a program: its value if it is a scalar."""
    if isinstance(value, Fact):
        return value
    is_readable = not is_traced(value) and isinstance(aval.dtype, np.dtype)
    return Fact(np.asarray(value, aval.dtype)[()]) if is_readable and aval.shape == () else UNKNOWN


def propagate_equation(equation: "core.JaxprEqn", values: Sequence[Any]) -> list[Fact]:
    """Returns what is known of the outputs of an equation, from facts of its inputs, or constants."""
    inputs = [
        fact_of_constant(variable, operand.aval)
        for variable, operand in zip(values, equation.invars, strict=True)
    ]
    name = equation.primitive.name
    params = equation.params
    if name == "cond":
        branches = [propagate(branch, inputs[1:]) for branch in params["branches"]]
        return [_shared_fact(facts) for facts in zip(*branches, strict=True)]
    if name in IDENTITIES:
        return inputs
    # A value that is everywhere is there in any arrangement.
    if name in REARRANGING or name in ("tile", "unstack"):
        fact_of_operand = inputs[0] if inputs[0].leaf is None else UNKNOWN
        if name == "gather" and fact_of_operand.known:
            fill = fill_of_lookup(equation)
            if fill is not None and fill != fact_of_operand.value:
                return [UNKNOWN]
        return [fact_of_operand] * len(equation.outvars)
    if name in JOINING or name == "stack":
        shared_fact = _shared_fact(inputs if name in ("concatenate", "stack") else inputs[:2])
        return [shared_fact if shared_fact.leaf is None else UNKNOWN]
    if name in _SUMS or name in _PRODUCTS:
        operands = inputs[: _PRODUCTS.get(name, 1)]
        is_zero_product = any(fact.is_zero() and fact.leaf is None for fact in operands)
        return [
            fact_of_zero(variable.aval) if is_zero_product else UNKNOWN
            for variable in equation.outvars
        ]
    if name == "select_n":
        return [_shared_fact(inputs[1:], *inputs[:1])]
    if name in _ELEMENTWISE:
        with np.errstate(all="ignore"):
            return [_elementwise_fact(name, params, inputs)]
    return [UNKNOWN] * len(equation.outvars)


def _elementwise_fact(name: str, params: dict[str, Any], inputs: list[Fact]) -> Fact:
    if name == "mul" and any(fact.is_zero() for fact in inputs):
        return next(fact for fact in inputs if fact.is_zero())
    if name == "div" and inputs[0].is_zero() and not inputs[1].known:
        return inputs[0]
    leaf_indices = {fact.leaf for fact in inputs} - {None}
    if len(leaf_indices) > 1 or not all(fact.known for fact in inputs):
        return UNKNOWN
    result = _ELEMENTWISE[name](*(fact.value for fact in inputs), **_options(name, params))
    return Fact(result, *leaf_indices)


def _options(name: str, params: dict[str, Any]) -> dict[str, Any]:
    option_names = {"convert_element_type": "new_dtype", "integer_pow": "y"}
    return {option_names[name]: params[option_names[name]]} if name in option_names else {}


def _shared_fact(choices: Sequence[Fact], chooser: Fact = UNKNOWN) -> Fact:
    """Returns the fact of a choice: that of the chosen one if it is known, else what all have in common."""
    if chooser.known:
        chosen_fact = choices[int(chooser.value)]
        leaf_indices = {chooser.leaf, chosen_fact.leaf} - {None}
        return Fact(chosen_fact.value, *leaf_indices) if len(leaf_indices) < 2 else UNKNOWN
    leaf_indices = {fact.leaf for fact in choices} - {None}
    all_equal = all(fact.known and bool(fact.value == choices[0].value) for fact in choices)
    return Fact(choices[0].value, *leaf_indices) if all_equal and len(leaf_indices) < 2 else UNKNOWN


_PRODUCTS = {"conv_general_dilated": 2, "dot_general": 2}
_SUMS = {"cumsum", "reduce_max", "reduce_min", "reduce_sum", "reduce_window_sum", "split"}
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "asin": np.arcsin,
    "atan": np.arctan,
    "cbrt": np.cbrt,
    "cos": np.cos,
    "erf": lambda x: np.asarray(math.erf(float(x)), x.dtype)[()],
    "expm1": np.expm1,
    "floor": np.floor,
    "logistic": lambda x: (1 / (1 + np.exp(-x))).astype(x.dtype),
    "round": lambda x, **_: np.round(x),
    "sin": np.sin,
    "sinh": np.sinh,
    "tan": np.tan,
    "add": operator.add,
    "add_any": operator.add,
    "and": operator.and_,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "convert_element_type": lambda x, new_dtype: np.asarray(x).astype(new_dtype)[()],
    "div": lambda x, y: np.true_divide(x, y).astype(x.dtype),
    "eq": operator.eq,
    "exp": np.exp,
    "ge": operator.ge,
    "gt": operator.gt,
    "integer_pow": lambda x, y: x**y,
    "is_finite": np.isfinite,
    "le": operator.le,
    "log": np.log,
    "log1p": np.log1p,
    "lt": operator.lt,
    "max": np.maximum,
    "min": np.minimum,
    "mul": operator.mul,
    "ne": operator.ne,
    "neg": operator.neg,
    "not": np.invert,
    "or": operator.or_,
    "pow": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sign": np.sign,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": operator.sub,
    "tanh": np.tanh,
}
