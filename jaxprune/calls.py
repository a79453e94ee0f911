"""Parts of a method, and the calls that made them.

A pattern, a schedule, an allocation, an update or a penalty consists of functions, which can be neither
printed nor compared nor pickled. The call of the factory that made them can: `cubic(sparsity=0.9, begin=0,
end=100)` is what such a schedule prints, what it is compared by, and what its pickle holds.
"""

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = [
    "Call",
    "Part",
    "comparable",
    "is_readable_array",
    "is_traced",
    "makes",
    "text",
    "uncalled",
]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Call:
    """A factory with its arguments, those included that were left at their defaults.

    Attributes:
      factory: what makes the part.
      arguments: of the call, by name.
    """

    factory: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self) -> Any:
        """Makes the part anew."""
        return self.factory(**self.arguments)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Call):
            return NotImplemented
        return comparable(self) == comparable(other)

    def __hash__(self) -> int:
        return hash(comparable(self))

    def __repr__(self) -> str:
        return _call_text(self.factory.__name__, inspect.signature(self.factory), self.arguments)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Part:
    """Base class of the parts of a method, which are compared, printed and pickled by their call.

    A part made by hand, or by `dataclasses.replace`, has no call. It is compared by its fields, of which
    functions are equal only to themselves.

    Attributes:
      made_by: the call of a `jaxprune.parts.factory`, or `None`.
    """

    made_by: Call | None = dataclasses.field(default=None, init=False)

    def values(self) -> dict[str, Any]:
        """Returns the fields by name, without the call."""
        field_names = [field.name for field in dataclasses.fields(self) if field.init]
        return {name: getattr(self, name) for name in field_names}

    def identity(self) -> Any:
        """Returns what two equal parts have in common: their call, or without one their fields."""
        return self.values() if self.made_by is None else self.made_by

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return comparable(self.identity()) == comparable(other.identity())

    def __hash__(self) -> int:
        return hash(comparable(self.identity()))

    def __repr__(self) -> str:
        if self.made_by is not None:
            return repr(self.made_by)
        return _call_text(type(self).__name__, inspect.signature(type(self)), self.values())

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.made_by is None:
            return super().__reduce_ex__(protocol)
        return operator.call, (self.made_by,)


def comparable(value: Any) -> Hashable:
    """Returns a hashable value that is the same for equal values.

    Arrays stand for their elements, and mappings for their items in order, as of regular expressions the
    first that matches counts. Functions and unknown objects are equal only to themselves.
    """
    if isinstance(value, Call):
        return value.factory, comparable(value.arguments)
    if isinstance(value, Mapping):
        return tuple((key, comparable(item)) for key, item in value.items())
    if isinstance(value, tuple | list):
        return tuple(comparable(item) for item in value)
    if isinstance(value, functools.partial):
        return value.func, comparable(value.args), comparable(value.keywords)
    if is_readable_array(value):
        array = np.asarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    if is_traced(value):
        return id(value)
    try:
        hash(value)
    except TypeError:
        # A tree of arrays in a class of its own, or an object that nobody can compare.
        leaves, treedef = jax.tree.flatten(value)
        is_leaf = len(leaves) == 1 and leaves[0] is value
        return id(value) if is_leaf else (treedef, comparable(leaves))
    return value


def is_traced(value: Any) -> bool:
    """Returns whether a value belongs to a trace, so that Python cannot decide by it."""
    return isinstance(value, Tracer)


def is_readable_array(value: Any) -> bool:
    """Returns whether a value is an array whose elements can be read; not a traced one, nor PRNG keys."""
    if not isinstance(value, np.ndarray | jax.Array) or is_traced(value):
        return False
    return not jnp.issubdtype(value.dtype, jax.dtypes.extended)


def text(value: Any) -> str:
    """Returns a value as a reader would write it: functions by name, arrays by dtype and shape."""
    if isinstance(value, functools.partial):
        argument_texts = [
            *map(text, value.args),
            *(f"{name}={text(argument)}" for name, argument in value.keywords.items()),
        ]
        return f"partial({', '.join([text(value.func), *argument_texts])})"
    if isinstance(value, np.generic) or (is_readable_array(value) and value.ndim == 0):
        return repr(value.item())
    if isinstance(value, np.ndarray | jax.Array):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {text(item)}' for key, item in value.items())}}}"
    if type(value) is list:
        return f"[{', '.join(map(text, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(text, value))}{',' if len(value) == 1 else ''})"
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    if type(value).__repr__ is object.__repr__:  # it would show an address
        return f"<{type(value).__name__}>"
    return repr(value)


def _call_text(name: str, signature: inspect.Signature, arguments: Mapping[str, Any]) -> str:
    """Returns a call as a reader would write it: no defaults, and a lone positional argument unnamed."""
    parameters = signature.parameters.values()
    positional_names = [
        candidate.name for candidate in parameters if candidate.kind is not candidate.KEYWORD_ONLY
    ]
    argument_texts = []
    for parameter in parameters:
        value = arguments[parameter.name]
        if comparable(value) != comparable(parameter.default):
            label = "" if positional_names == [parameter.name] else f"{parameter.name}="
            argument_texts.append(label + text(value))
    return f"{name}({', '.join(argument_texts)})"


def makes(value: Any) -> type[Part] | None:
    """Returns the class of parts that a function makes, as its annotation says; `None` for other values.

    >>> def double(sparsity): return 2 * sparsity
    >>> makes(double) is None, makes(Part) is None
    (True, True)
    """
    if not callable(value) or isinstance(value, Part | type):
        return None
    try:
        annotation = inspect.signature(value).return_annotation
    except (TypeError, ValueError):  # some functions of other libraries do not tell
        return None
    return annotation if isinstance(annotation, type) and issubclass(annotation, Part) else None


def uncalled(function: Callable[..., Any]) -> str:
    """Returns how to call a function, with the arguments that it needs.

    >>> def every(every, *, sparsity, end, begin=None): ...
    >>> uncalled(every)
    'every(every, sparsity=..., end=...)'
    """
    arguments = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY:
            arguments.append(f"{parameter.name}=...")
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            arguments.append(parameter.name)
    return f"{text(function)}({', '.join(arguments)})"
