"""Scores that are computed where they are read, instead of stored.

A search reads the scores of a leaf a few times and needs nothing else of them. Within a compiled program,
`run_deferred` holds back what is computed element by element from arrays that exist anyway (weights,
gradients, masks) and hands it to the searches as a recipe: each pass then computes the scores on the way, and
no copy of them is ever in memory. What anything else reads is computed when it is asked for.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxprune.calls import is_traced
from jaxprune.programs import interpreter
from jaxprune.programs.axis_order import transposes
from jaxprune.programs.primitives import ELEMENTWISE, IDENTITIES, REDUCING
from jaxprune.selection.shared_kernels import compiled_once

__all__ = [
    "Computed",
    "Recipe",
    "Replacements",
    "called_once_per_kind",
    "computed_by_call",
    "is_deferring",
    "recipe_of",
    "run_deferred",
    "stored",
]

_PER_ELEMENT = (ELEMENTWISE - IDENTITIES) | {"bitcast_convert_type", "copy", "stop_gradient"}
_RESHAPING = frozenset({"expand_dims", "reshape", "squeeze", "transpose"})
_BROADCASTING = frozenset({"broadcast_in_dim", "iota"})  # fewer elements go in than come out

_DEFERRING: ContextVar[bool] = ContextVar("deferring", default=False)

# A jitted function -> what runs in its place: (its equation, its inputs, some of them `Computed`) -> outputs.
Replacements = dict[Callable, Callable[[Any, list[Any]], list[Any]]]


@dataclasses.dataclass(frozen=True)
class _Equation:
    """One operation of a program; two are equal if they do the same."""

    name: str
    settings: str
    equation: Any = dataclasses.field(compare=False, repr=False)

    def __call__(self, *inputs: Any) -> Any:
        return interpreter.bind(self.equation, list(inputs))[0]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How outputs are computed from arrays, element by element; equal recipes are one static argument of jit.

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
        """Computes the outputs from the arrays."""
        results: list[Any] = []

        def read(source: tuple[str, Any]) -> Any:
            kind, reference = source
            if kind == "value":
                return reference.number
            return arrays[reference] if kind == "array" else results[reference]

        for operation, sources in self.steps:
            results.append(operation(*map(read, sources)))
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
      operation: hashable, computes the value from its inputs.
      inputs: arrays, numbers and other `Computed` values.
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
    """Returns a value in an array of its own, which is computed if it was not yet."""
    return value.value if isinstance(value, Computed) else value


def recipe_of(values: Sequence[Any]) -> tuple[Recipe, list[Any]]:
    """Returns how values are computed, and the arrays that they are computed from.

    Args:
      values: arrays, numbers and `Computed` values.

    >>> doubled = Computed(jnp.add, [jnp.ones(2)] * 2, (2,), np.float32)
    >>> recipe, arrays = recipe_of([doubled])
    >>> len(arrays), recipe(*arrays)
    (1, [Array([2., 2.], dtype=float32)])
    """
    steps: list[Any] = []
    arrays: list[Any] = []
    sources: dict[int, tuple[str, Any]] = {}
    referenced = []  # values stay alive, so that their ids stay theirs

    def source(value: Any) -> tuple[str, Any]:
        if isinstance(value, Computed) and value._value is not None:
            value = value._value
        if isinstance(value, Computed) and not isinstance(_without_reshape(value), Computed):
            value = value.value  # an array in another shape, for which nothing is computed
        known_source = sources.get(id(value))
        if known_source is not None:
            return known_source
        referenced.append(value)
        if isinstance(value, Computed):
            inputs = tuple(map(source, value.inputs))
            steps.append((value.operation, inputs))
            new_source: tuple[str, Any] = ("step", len(steps) - 1)
        elif not is_traced(value) and np.ndim(value) == 0 and not _is_key(value):
            new_source = ("value", _Number(value))
        else:
            arrays.append(value)
            new_source = ("array", len(arrays) - 1)
        sources[id(value)] = new_source
        return new_source

    outputs = tuple(map(source, values))
    return Recipe(tuple(steps), outputs), arrays


def _is_key(value: Any) -> bool:
    return isinstance(value, Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def is_deferring() -> bool:
    """Returns whether a program is being traced for `run_deferred`, which replaces the searches in it."""
    return _DEFERRING.get()


def run_deferred(fn: Callable[[], Any], replacements: Replacements) -> Any:
    """Runs `fn()` in a program in which scores are computed where they are read, and returns its result.

    Args:
      fn: to be traced; it reads arrays of the functions around it, and takes none.
      replacements: of functions that `selection.replaceable` marks.
    """
    by_name = {function.__name__: replacement for function, replacement in replacements.items()}
    token = _DEFERRING.set(True)
    try:
        program, shape = jax.make_jaxpr(fn, return_shape=True)()
    finally:
        _DEFERRING.reset(token)

    def name_of(equation: Any) -> str:
        return (
            equation.params.get("name", "")
            if interpreter.called_program(equation) is not None
            else ""
        )

    def rule(equation: Any, inputs: list[Any]) -> list[Any]:
        replacement = by_name.get(name_of(equation))
        if replacement is not None:
            return replacement(equation, inputs)
        reduces = equation.primitive.name in REDUCING and isinstance(inputs[0], Computed)
        if reduces or _deferrable(equation):
            value = _computed(equation, inputs)
            return [_computed_once(value) if reduces else value]
        return interpreter.bind(equation, [stored(input_value) for input_value in inputs])

    def enters(equation: Any) -> bool:
        return name_of(equation) not in by_name

    outputs = interpreter.run(program, [], rule, enters=enters)
    return jax.tree.unflatten(
        jax.tree.structure(shape), [_computed_once(input_value) for input_value in outputs]
    )


def _computed(equation: Any, inputs: list[Any]) -> Any:
    """The output of an operation, computed where it is read, in the shape before a reshape if there was one.

    XLA lets a result take the place of an operand that is read nowhere else, if no reshape lies between: what
    follows a reshape of computed values, with nothing else but stored arrays, is computed before it.
    """
    name = equation.primitive.name
    aval = equation.outvars[0].aval
    is_transpose = name == "transpose" or (name == "reshape" and transposes(equation))
    if name in _RESHAPING and not is_transpose:
        array = _without_reshape(inputs[0])
        if array.shape == aval.shape:
            return array
        return Computed(_Reshape(aval.shape), [array], aval.shape, aval.dtype)
    operation = _Equation(name, str(equation.params), equation)
    shape = _shape_before(inputs) if name in _PER_ELEMENT else None
    if shape is None:
        return Computed(operation, inputs, aval.shape, aval.dtype)
    before = Computed(operation, [_reshaped(value, shape) for value in inputs], shape, aval.dtype)
    return Computed(_Reshape(aval.shape), [before], aval.shape, aval.dtype)


@dataclasses.dataclass(frozen=True)
class _Reshape:
    """Gives an array another shape."""

    shape: tuple[int, ...]

    def __call__(self, array: Any) -> Any:
        return lax.reshape(array, self.shape)


def _shape_before(inputs: Sequence[Any]) -> tuple[int, ...] | None:
    """The shape before the reshapes of an operation's computed inputs; `None` if there is no such shape."""
    unshaped = [_without_reshape(value) for value in inputs]
    computed = [
        (value, before)
        for value, before in zip(inputs, unshaped, strict=True)
        if isinstance(before, Computed) and before.shape
    ]
    shapes = {before.shape for _, before in computed}
    was_reshaped = all(value is not before for value, before in computed)
    return shapes.pop() if was_reshaped and len(shapes) == 1 else None


def _without_reshape(value: Any) -> Any:
    """What a value was reshaped from; itself, if it was not."""
    is_reshaped = isinstance(value, Computed) and isinstance(value.operation, _Reshape)
    return value.inputs[0] if is_reshaped else value


def _reshaped(value: Any, shape: tuple[int, ...]) -> Any:
    """An input in the shape before its reshape; numbers stay as they are."""
    value = _without_reshape(value)
    if isinstance(value, Computed) or not np.ndim(value) or value.shape == shape:
        return value
    return lax.reshape(value, shape)


def _computed_once(value: Any) -> Any:
    """The value in an array of its own; equal recipes share their kernels."""
    if not isinstance(value, Computed):
        return value
    recipe, arrays = recipe_of([value])
    return _follow_recipe(tuple(arrays), recipe=recipe)


@compiled_once(static=["recipe"])
def _follow_recipe(arrays: tuple[Any, ...], *, recipe: Recipe) -> Any:
    return recipe(*arrays)[0]


def _deferrable(equation: Any) -> bool:
    """Whether an operation computes an array element by element, from arrays as large or from numbers."""
    if len(equation.outvars) != 1:
        return False
    output = equation.outvars[0].aval
    if getattr(output, "ndim", 0) == 0 or output.size < 2:
        return False
    name = equation.primitive.name
    if name in _BROADCASTING:
        return all(atom.aval.size < output.size for atom in equation.invars)
    if name in _RESHAPING:
        return len(equation.invars) == 1 and equation.params.get("sharding") is None
    shapes = [atom.aval.shape for atom in equation.invars]
    return name in _PER_ELEMENT and all(shape in ((), output.shape) for shape in shapes)


def called_once_per_kind(equation: Any, inputs: list[Any]) -> list[Any]:
    """Runs a jitted function and computes its `Computed` inputs within it; equal calls share their kernels.

    Args:
      equation: that calls the function.
      inputs: arrays and `Computed` values.
    """
    recipe, arrays = recipe_of(inputs)
    return list(_run_program(tuple(arrays), program=_Program.of(equation), recipe=recipe))


def computed_by_call(equation: Any, inputs: list[Any]) -> list[Any]:
    """Returns the result of a jitted function, element by element, as one that is computed where it is read.

    Args:
      equation: that calls the function.
      inputs: arrays and `Computed` values.
    """
    [output] = equation.outvars
    program = _Program.of(equation)
    return [Computed(program, inputs, output.aval.shape, output.aval.dtype)]


@dataclasses.dataclass(frozen=True)
class _Program:
    """A program; two are equal if their text and their constants are the same."""

    text: str
    constants: tuple[_Number, ...]
    program: Any = dataclasses.field(compare=False, repr=False)

    @classmethod
    def of(cls, equation: Any) -> "_Program":
        """The program that an equation calls."""
        program = equation.params["jaxpr"]
        return cls(str(program), tuple(map(_Number, program.consts)), program)

    def __call__(self, *inputs: Any) -> Any:
        return interpreter.evaluate(self.program, list(inputs))[0]


@compiled_once(static=["program", "recipe"])
def _run_program(arrays: tuple[Any, ...], *, program: _Program, recipe: Recipe) -> tuple[Any, ...]:
    return tuple(interpreter.evaluate(program.program, recipe(*arrays)))
