"""Checks of the kind of arguments: a wrong one is refused in a sentence, before anything is traced."""

import inspect
import itertools
import numbers
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.calls import Part, is_readable_array, is_traced, makes, text, uncalled

__all__ = [
    "BOOLEAN",
    "FUNCTION",
    "INTEGER",
    "KEY",
    "NUMBER",
    "OPTIMIZER",
    "TREE",
    "Kind",
    "check",
    "expression",
    "is_function",
    "optional",
    "swapped",
    "takes",
]


class Kind(NamedTuple):
    """A kind of argument, and the words for a value that is not of it.

    Attributes:
      needed: the kind in words, with its article.
      fits: value -> whether it is of the kind.
      remedy: value of another kind -> what to write instead.
    """

    needed: str
    fits: Callable[[Any], bool]
    remedy: Callable[[Any], str]


def optional(kind: Kind) -> Kind:
    """Returns the kind whose values are those of `kind` and `None`."""
    return kind._replace(fits=lambda value: value is None or kind.fits(value))


def check(who: str, /, **arguments: tuple[Any, Kind]) -> None:
    """Refuses arguments that are not of their kind.

    Args:
      who: the function whose arguments they are.
      **arguments: value and kind by name. Two that each fit the other's kind are told to be swapped.

    Raises:
      TypeError: what was found, what is needed and what to do.

    >>> check("cubic", begin=(0, INTEGER), every=(1.5, INTEGER))
    Traceback (most recent call last):
    TypeError: cubic(every=1.5): an integer is needed, not a float; round it.
    """
    swapped(who, **arguments)
    wrong_names = [name for name, (value, kind) in arguments.items() if not kind.fits(value)]
    for name in wrong_names:
        value, kind = arguments[name]
        raise TypeError(
            f"{who}({name}={_in_one_line(value)}): {kind.needed} is needed, not {_describe(value)}; "
            f"{kind.remedy(value)}."
        )


def swapped(who: str, /, **arguments: tuple[Any, Kind]) -> None:
    """Refuses two arguments that are not of their kind, but each of the other's.

    Args:
      who: the function whose arguments they are.
      **arguments: value and kind by name.

    Raises:
      TypeError: which two are swapped.

    >>> swapped("growth", end=(1.5, INTEGER), decay=("fast", NUMBER))  # wrong as well, but not swapped
    """
    wrong_arguments = {name: pair for name, pair in arguments.items() if not pair[1].fits(pair[0])}
    for first, second in itertools.combinations(wrong_arguments, 2):
        first_value, first_kind = wrong_arguments[first]
        second_value, second_kind = wrong_arguments[second]
        if first_kind.fits(second_value) and second_kind.fits(first_value):
            raise TypeError(
                f"{who}: {first} and {second} are swapped; give {first_kind.needed} as {first} and "
                f"{second_kind.needed} as {second}."
            )


def expression(who: str, pattern: Any) -> None:
    """Refuses what is no regular expression.

    Args:
      who: the function whose argument it is.
      pattern: the argument.

    Raises:
      TypeError: if it is no string.
      ValueError: if it cannot be compiled; it says why.

    >>> expression("partition", "[")
    Traceback (most recent call last):
    ValueError: partition: '[' is no regular expression (unterminated character set at position 0); ...
    """
    if not isinstance(pattern, str):
        raise TypeError(
            f"{who}: a regular expression is needed, not {_describe(pattern)}; give a string, which is "
            "searched in the paths of the leaves."
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{who}: {pattern!r} is no regular expression ({error}); re.escape makes one of text that is "
            "meant as it stands."
        ) from None


def is_function(value: Any) -> bool:
    """Returns whether a value is a function: no class, and no part of a method, which can be called, too."""
    return callable(value) and not isinstance(value, Part | type | str)


def takes(function: Callable[..., Any], count: int) -> bool:
    """Returns whether a function takes `count` arguments by position; `True` if its signature is unknown.

    >>> takes(lambda step: step, 1), takes(lambda start, end, steps: start, 1)
    (True, False)
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    return len(required) <= count <= len(positional)


def _in_one_line(value: Any) -> str:
    """Returns a value in one line, cut off where it is long, without addresses in memory."""
    line = re.sub(r" at 0x[0-9a-f]+", "", " ".join(text(value).split()))
    return line if len(line) <= 60 else f"{line[:56]} ..."


def _describe(value: Any) -> str:
    """Returns what a value is, in a word or two with the article."""
    if value is None:
        return "None"
    if is_traced(value):
        return "a traced value"
    if makes(value) is not None:
        return "a function that was not called"
    if is_function(value):
        return "a function"
    if isinstance(value, type):
        return "a class"
    if _is_optimizer(value):
        return "an optimizer"
    if isinstance(value, np.ndarray | jax.Array):
        return "an array"
    name = {"str": "string"}.get(type(value).__name__, type(value).__name__)
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


_TRACED = (
    "its value is read before the program runs; make this outside of the function that is traced"
)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_) or is_traced(value):
        return False
    if is_readable_array(value) and value.ndim == 0:
        is_real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(
            value.dtype, jnp.integer
        )
        return bool(is_real)
    return isinstance(value, numbers.Real)


def _is_integer(value: Any) -> bool:
    if isinstance(value, bool | np.bool_) or is_traced(value):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _number_remedy(value: Any) -> str:
    if is_traced(value):
        return _TRACED
    if isinstance(value, str) and re.fullmatch(r"[-+.\d]+(e[-+]?\d+)?", value.strip()):
        return "leave out the quotes"
    return "give a plain one"


def _integer_remedy(value: Any) -> str:
    if not _is_number(value):
        return _number_remedy(value)
    return f"write {int(value)}" if float(value).is_integer() else "round it"


NUMBER = Kind("a number", _is_number, _number_remedy)
INTEGER = Kind("an integer", _is_integer, _integer_remedy)
BOOLEAN = Kind(
    "True or False", lambda value: isinstance(value, bool | np.bool_), lambda _: "say which"
)


FUNCTION = Kind("a function", is_function, lambda _: "give one that is called, such as model.apply")


def _is_key(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    shape = getattr(value, "shape", None)
    if dtype is None or shape is None:
        return False
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return shape == ()
    return dtype == jnp.uint32 and len(shape) == 1  # as jax.random.PRNGKey makes it


def _key_remedy(value: Any) -> str:
    if _is_integer(value):
        return f"write jax.random.key({operator.index(value)})"
    if isinstance(value, jax.Array) and len(value) and _is_key(value[0]):
        return f"of these {len(value)} keys give one, such as key[0]"
    return "jax.random.key(0) makes one"


KEY = Kind("a PRNG key", _is_key, _key_remedy)


def _is_optimizer(value: Any) -> bool:
    functions = [getattr(value, name, None) for name in ("init", "update")]
    return all(map(callable, functions)) and not isinstance(value, type)


def _optimizer_remedy(value: Any) -> str:
    if is_function(value):
        return f"if it makes one, call it: {uncalled(value)}"
    return "such as optax.adam(1e-3)"


OPTIMIZER = Kind("an optimizer of optax", _is_optimizer, _optimizer_remedy)


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "OUSMm":
        return False  # objects, words and dates
    return isinstance(leaf, numbers.Number) or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


def _is_tree(value: Any) -> bool:
    is_key = jnp.issubdtype(getattr(value, "dtype", jnp.float32), jax.dtypes.prng_key)
    return not is_key and all(map(_is_array, jax.tree.leaves(value)))


def _tree_remedy(value: Any) -> str:
    pairs = jax.tree_util.tree_leaves_with_path(value)
    path, leaf = next(((path, leaf) for path, leaf in pairs if not _is_array(leaf)), ((), value))
    if not path:
        return "give the parameters alone, such as model.init(key, inputs)['params']"
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    description = f"the function {text(leaf)}" if is_function(leaf) else _describe(leaf)
    return (
        f"its leaf {name!r} is {description}; split such leaves off first, as in "
        "params, static = eqx.partition(module, eqx.is_array), or shrink the module by structured.smaller"
    )


TREE = Kind("a tree of arrays", _is_tree, _tree_remedy)
