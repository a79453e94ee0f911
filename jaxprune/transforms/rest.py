"""Which optimizer state stays as `init` gives it where gradients and weights are zero: a proof.

Off the masks an optimizer meets weights and gradients of zero and a state fresh from `init`. Nearly all
optimizers leave that state as it is (a moment of nothing is nothing), and then it need not be refreshed
after the update, where the second copy of the state would cost memory and time. Some do not: AdaBelief
adds its epsilon to a moment in each step. Which is which is read off the optimizer's own program: its
jaxpr is evaluated with what is known of the values off the masks, and nothing else.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxprune import masks as masks_lib
from jaxprune.transforms.mirrors import mirrors
from jaxprune.types import Masks, Params

if TYPE_CHECKING:
    from jax.extend import core  # takes long to import

__all__ = ["at_rest"]


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
        return self.value is not None

    def is_zero(self) -> bool:
        return self.known and bool(self.value == 0)


UNKNOWN = Fact()


def at_rest(
    inner: optax.GradientTransformationExtraArgs,
    inner_state: optax.OptState,
    params: Params,
    masks: Masks,
    **extra: Any,
) -> list[bool]:
    """Says per leaf of `inner_state` whether an update leaves it, off the masks, as `init` gives it.

    That holds as long as the gradients are zero there and nothing becomes infinite: zero times or over
    a finite number is taken for zero. Leaves that mirror no masked parameter are not at rest.
    """
    zeros = [
        UNKNOWN if mask is None else Fact(np.zeros((), jnp.result_type(leaf)), i)
        for i, (leaf, mask) in enumerate(
            zip(jax.tree.leaves(params), masks_lib.beside(params, masks), strict=True)
        )
    ]
    born = _facts(jax.make_jaxpr(inner.init)(params), zeros)
    before = [
        Fact(fact.value, i)
        if i is not None and zeros[i].known and fact.leaf in (None, i)
        else UNKNOWN
        for i, fact in zip(mirrors(params, inner_state), born, strict=True)
    ]
    step = jax.make_jaxpr(lambda g, s, p: inner.update(g, s, p, **extra)[1])
    after = _facts(step(params, inner_state, params), [*zeros, *before, *zeros])
    return [
        old.known and new.known and new.leaf in (None, old.leaf) and bool(new.value == old.value)
        for old, new in zip(before, after, strict=True)
    ]


def _facts(program: "core.ClosedJaxpr", inputs: Sequence[Fact]) -> list[Fact]:
    """What is known of the outputs of a program, from what is known of its inputs."""
    known: dict[core.Var, Fact] = {}

    def read(atom: Any) -> Fact:
        return _constant(atom.val, atom.aval) if hasattr(atom, "val") else known[atom]

    # A program without constants may come open, as the jaxpr alone.
    jaxpr, consts = getattr(program, "jaxpr", program), getattr(program, "consts", ())
    for variable, value in zip(jaxpr.constvars, consts, strict=True):
        known[variable] = _constant(value, variable.aval)
    known.update(zip(jaxpr.invars, inputs, strict=True))
    with np.errstate(all="ignore"):
        for equation in jaxpr.eqns:
            found = _equation(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _constant(value: Any, aval: Any) -> Fact:
    readable = not isinstance(value, Tracer) and isinstance(aval.dtype, np.dtype)
    return Fact(np.asarray(value, aval.dtype)[()]) if readable and aval.shape == () else UNKNOWN


def _equation(equation: "core.JaxprEqn", inputs: list[Fact]) -> list[Fact]:
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        return _facts(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"], inputs)
    if name == "cond":
        branches = [_facts(branch, inputs[1:]) for branch in params["branches"]]
        return [_shared(facts) for facts in zip(*branches, strict=True)]
    if name in _UNCHANGED:
        return inputs
    if name in _MOVED:  # a value that is everywhere is there in any arrangement
        return [inputs[0] if inputs[0].leaf is None else UNKNOWN]
    if name == "select_n":
        return [_shared(inputs[1:], *inputs[:1])]
    if name in _ELEMENTWISE:
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


_CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "custom_jvp_call"}
_UNCHANGED = {
    "copy",
    "copy_p",
    "optimization_barrier",
    "reduce_precision",
    "sharding_constraint",
    "reshard",
}
_MOVED = {"broadcast_in_dim", "reshape", "squeeze", "transpose", "expand_dims"}
_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
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
