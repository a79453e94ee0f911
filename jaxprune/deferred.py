"""Scores that are computed where they are read, instead of stored.

A search reads the scores of a leaf a few times and needs nothing else of them. Within a compiled program,
`run_deferred` holds back what is computed number by number from arrays that exist anyway (weights, gradients,
masks) and hands it to the searches as a recipe: each pass then computes the scores on the way, and no copy of
them is ever in memory. What anything else reads is computed when it is asked for.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxprune.programs import interpreter
from jaxprune.programs.primitives import ELEMENTWISE, IDENTITIES, REDUCING
from jaxprune.shared_kernels import compiled_once

__all__ = ["Computed", "Recipe", "called_once_per_kind", "recipe_of", "run_deferred", "stored"]

_PER_NUMBER = (ELEMENTWISE - IDENTITIES) | {"bitcast_convert_type", "copy", "stop_gradient"}
_RESHAPING = frozenset({"expand_dims", "reshape", "squeeze", "transpose"})
_SPREADING = frozenset({"broadcast_in_dim", "iota"})  # fewer numbers go in than come out

Consumer = Callable[[Any, list[Any]], list[Any]]


@dataclasses.dataclass(frozen=True)
class _Equation:
    """One operation of a program; equal if it does the same."""

    name: str
    settings: str
    equation: Any = dataclasses.field(compare=False, repr=False)

    def __call__(self, *inputs: Any) -> Any:
        return interpreter.bind(self.equation, list(inputs))[0]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How outputs are computed from arrays, number by number; equal recipes are one static argument of jit.

    Attributes:
      steps: operations, each with its inputs: ("array", index), ("step", index) or ("value", number).
      outputs: which of them come out, in the same form.
    """

    steps: tuple[tuple[Callable[..., Any], tuple[tuple[str, Any], ...]], ...]
    outputs: tuple[tuple[str, Any], ...]

    @cached_property
    def _hash(self) -> int:
        return hash((self.steps, self.outputs))

    def __hash__(self) -> int:
        return self._hash

    def __call__(self, *arrays: Any) -> list[Any]:
        """The outputs, of the arrays that they are computed from."""
        found: list[Any] = []

        def read(source: tuple[str, Any]) -> Any:
            kind, which = source
            return (
                {"array": arrays, "step": found}[kind][which] if kind != "value" else which.number
            )

        for operation, inputs in self.steps:
            found.append(operation(*map(read, inputs)))
        return [read(source) for source in self.outputs]


class _Number:
    """A constant that compares by its bits, as NaN does not."""

    def __init__(self, number: Any):
        self.number = number
        array = np.asarray(number)
        self.key = (array.dtype.name, array.tobytes(), bool(getattr(number, "weak_type", False)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Number) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


class Computed:
    """A value that is computed where it is read.

    Attributes:
      operation: hashable, makes it of its inputs.
      inputs: arrays, numbers and other such values.
      shape: of the value.
      dtype: of the value.
    """

    def __init__(
        self, operation: Callable[..., Any], inputs: Sequence[Any], shape: Any, dtype: Any
    ):
        self.operation = operation
        self.inputs = tuple(inputs)
        self.shape = tuple(shape)
        self.dtype = dtype
        self._value: Any = None

    @property
    def value(self) -> Any:
        """The value in an array of its own, computed once."""
        if self._value is None:
            self._value = self.operation(*map(stored, self.inputs))
        return self._value


def stored(value: Any) -> Any:
    """Returns a value in an array of its own."""
    return value.value if isinstance(value, Computed) else value


def recipe_of(values: Sequence[Any]) -> tuple[Recipe, list[Any]]:
    """Returns how values are computed, and the arrays that they are computed from."""
    steps: list[Any] = []
    arrays: list[Any] = []
    sources: dict[int, tuple[str, Any]] = {}
    kept = []  # ids are of objects that live

    def source(value: Any) -> tuple[str, Any]:
        if isinstance(value, Computed) and value._value is not None:
            value = value._value
        known = sources.get(id(value))
        if known is not None:
            return known
        kept.append(value)
        if isinstance(value, Computed):
            inputs = tuple(map(source, value.inputs))
            steps.append((value.operation, inputs))
            new: tuple[str, Any] = ("step", len(steps) - 1)
        elif not isinstance(value, Tracer) and np.ndim(value) == 0 and not _is_key(value):
            new = ("value", _Number(value))
        else:
            arrays.append(value)
            new = ("array", len(arrays) - 1)
        sources[id(value)] = new
        return new

    outputs = tuple(map(source, values))
    return Recipe(tuple(steps), outputs), arrays


def _is_key(value: Any) -> bool:
    return isinstance(value, Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def run_deferred(fn: Callable[[], Any], consumers: dict[str, Consumer]) -> Any:
    """Returns what `fn()` does, in a program in which scores are computed where they are read.

    Args:
      fn: to be traced; its arrays are those around it.
      consumers: name of a jitted function -> (its equation, its inputs, some of them `Computed`) -> outputs.
    """
    program, shape = jax.make_jaxpr(fn, return_shape=True)()

    def name_of(equation: Any) -> str:
        return (
            equation.params.get("name", "")
            if interpreter.called_program(equation) is not None
            else ""
        )

    def rule(equation: Any, inputs: list[Any]) -> list[Any]:
        consumer = consumers.get(name_of(equation))
        if consumer is not None:
            return consumer(equation, inputs)
        reduces = equation.primitive.name in REDUCING and isinstance(inputs[0], Computed)
        if reduces or _deferrable(equation):
            kind = equation.outvars[0].aval
            operation = _Equation(equation.primitive.name, str(equation.params), equation)
            value = Computed(operation, inputs, kind.shape, kind.dtype)
            return [_finished(value) if reduces else value]
        return interpreter.bind(equation, [stored(x) for x in inputs])

    enters = lambda equation: name_of(equation) not in consumers
    outputs = interpreter.run(program, [], rule, enters=enters)
    return jax.tree.unflatten(jax.tree.structure(shape), [_finished(x) for x in outputs])


def _finished(value: Any) -> Any:
    if not isinstance(value, Computed):
        return value
    recipe, arrays = recipe_of([value])
    return _made(tuple(arrays), recipe=recipe)


@compiled_once(static=["recipe"])
def _made(arrays: tuple[Any, ...], *, recipe: Recipe) -> Any:
    return recipe(*arrays)[0]


def _deferrable(equation: Any) -> bool:
    """Whether an operation makes an array number by number, of arrays as large or of numbers."""
    if len(equation.outvars) != 1:
        return False
    out = equation.outvars[0].aval
    if getattr(out, "ndim", 0) == 0 or out.size < 2:
        return False
    name = equation.primitive.name
    if name in _SPREADING:
        return all(atom.aval.size < out.size for atom in equation.invars)
    if name in _RESHAPING:
        return len(equation.invars) == 1 and equation.params.get("sharding") is None
    shapes = [atom.aval.shape for atom in equation.invars]
    return name in _PER_NUMBER and all(shape in ((), out.shape) for shape in shapes)


def called_once_per_kind(equation: Any, inputs: list[Any]) -> list[Any]:
    """Runs a jitted function with what it reads computed in it; equal calls share their kernels."""
    recipe, arrays = recipe_of(inputs)
    program = equation.params["jaxpr"]
    constants = tuple(_Number(constant) for constant in program.consts)
    call = _Program(str(program), constants, program)
    return list(_call(tuple(arrays), program=call, recipe=recipe))


@dataclasses.dataclass(frozen=True)
class _Program:
    """A program; equal if it reads the same and its constants are the same."""

    text: str
    constants: tuple[_Number, ...]
    program: Any = dataclasses.field(compare=False, repr=False)


@compiled_once(static=["program", "recipe"])
def _call(arrays: tuple[Any, ...], *, program: _Program, recipe: Recipe) -> tuple[Any, ...]:
    return tuple(interpreter.evaluate(program.program, recipe(*arrays)))
