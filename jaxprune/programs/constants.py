"""What can be told of a program's values before it runs: which are the same number everywhere.

A jaxpr is followed with what is known of its inputs, and nothing else. Zero times or over anything is taken
for zero, as if nothing became infinite.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.core import Tracer

from jaxprune.programs.interpreter import run
from jaxprune.programs.primitives import IDENTITIES, JOINING, REARRANGING

if TYPE_CHECKING:
    from jax.extend import core  # takes long to import

__all__ = ["UNKNOWN", "Fact", "constant", "follow", "of", "zero"]


@dataclasses.dataclass(frozen=True)
class Fact:
    """What is known of an array: it has this value off the mask of a leaf, or everywhere.

    Attributes:
      value: a NumPy scalar, or `None` if nothing is known.
      leaf: the number of the parameter whose mask is meant; `None`: the value is everywhere.
    """

    value: Any = None
    leaf: int | None = None

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return self.value is not None

    def is_zero(self) -> bool:
        """Whether it is known to be zero."""
        return self.known and bool(self.value == 0)


UNKNOWN = Fact()


def zero(aval: Any) -> Fact:
    """Zero everywhere, in the type of a value; keys and the like are never known."""
    return Fact(np.zeros((), aval.dtype)[()]) if isinstance(aval.dtype, np.dtype) else UNKNOWN


def of(program: "core.ClosedJaxpr", inputs: Sequence[Fact]) -> list[Fact]:
    """What is known of the outputs of a program, from what is known of its inputs."""
    outputs = getattr(program, "jaxpr", program).outvars  # an open jaxpr has no consts
    found = run(program, inputs, follow)
    return [constant(v, atom.aval) for v, atom in zip(found, outputs, strict=True)]


def constant(value: Any, aval: Any) -> Fact:
    """What is known of a constant of a program, or already known of a value."""
    if isinstance(value, Fact):
        return value
    readable = not isinstance(value, Tracer) and isinstance(aval.dtype, np.dtype)
    return Fact(np.asarray(value, aval.dtype)[()]) if readable and aval.shape == () else UNKNOWN


def follow(equation: "core.JaxprEqn", values: Sequence[Any]) -> list[Fact]:
    """What is known of what an equation gives, from facts of what goes into it, or constants."""
    inputs = [constant(v, a.aval) for v, a in zip(values, equation.invars, strict=True)]
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        branches = [of(branch, inputs[1:]) for branch in params["branches"]]
        return [_shared(facts) for facts in zip(*branches, strict=True)]
    if name in IDENTITIES:
        return inputs
    # A value that is everywhere is there in any arrangement.
    if name in REARRANGING or name in ("tile", "unstack"):
        same = inputs[0] if inputs[0].leaf is None else UNKNOWN
        return [same] * len(equation.outvars)
    if name in JOINING or name == "stack":
        found = _shared(inputs if name in ("concatenate", "stack") else inputs[:2])
        return [found if found.leaf is None else UNKNOWN]
    if name in _SUMS or name in _PRODUCTS:
        operands = inputs[: _PRODUCTS.get(name, 1)]
        nothing = any(fact.is_zero() and fact.leaf is None for fact in operands)
        return [zero(v.aval) if nothing else UNKNOWN for v in equation.outvars]
    if name == "select_n":
        return [_shared(inputs[1:], *inputs[:1])]
    if name in _ELEMENTWISE:
        with np.errstate(all="ignore"):
            return [_elementwise(name, params, inputs)]
    return [UNKNOWN] * len(equation.outvars)


def _elementwise(name: str, params: dict[str, Any], inputs: list[Fact]) -> Fact:
    if name == "mul" and any(fact.is_zero() for fact in inputs):
        return next(fact for fact in inputs if fact.is_zero())
    if name == "div" and inputs[0].is_zero() and not inputs[1].known:
        return inputs[0]
    leaves = {fact.leaf for fact in inputs} - {None}
    if len(leaves) > 1 or not all(fact.known for fact in inputs):
        return UNKNOWN
    value = _ELEMENTWISE[name](*(fact.value for fact in inputs), **_options(name, params))
    return Fact(value, *leaves)


def _options(name: str, params: dict[str, Any]) -> dict[str, Any]:
    wanted = {"convert_element_type": "new_dtype", "integer_pow": "y"}
    return {wanted[name]: params[wanted[name]]} if name in wanted else {}


def _shared(choices: Sequence[Fact], chooser: Fact = UNKNOWN) -> Fact:
    """What holds whichever is chosen, and with certainty if it is known which."""
    if chooser.known:
        chosen = choices[int(chooser.value)]
        leaves = {chooser.leaf, chosen.leaf} - {None}
        return Fact(chosen.value, *leaves) if len(leaves) < 2 else UNKNOWN
    leaves = {fact.leaf for fact in choices} - {None}
    same = all(fact.known and bool(fact.value == choices[0].value) for fact in choices)
    return Fact(choices[0].value, *leaves) if same and len(leaves) < 2 else UNKNOWN


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
