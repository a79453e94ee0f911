"""Factories of the parts of a method, which check their arguments, and the kinds of parts to check for."""

import copy
import dataclasses
import functools
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from jaxprune.calls import Call, Part, makes, uncalled
from jaxprune.checks import BOOLEAN, INTEGER, NUMBER, Kind, check, is_function, optional, takes
from jaxprune.types import (
    Allocation,
    AnyAllocation,
    Backward,
    Criterion,
    Fraction,
    Pattern,
    Penalty,
    Schedule,
    Share,
    Update,
)
from jaxprune.units.coupling import AnyPattern, Coupled

__all__ = [
    "ALLOCATION",
    "BACKWARD",
    "CRITERION",
    "FRACTION",
    "LEAFWISE",
    "PATTERN",
    "PENALTY",
    "SCHEDULE",
    "UPDATE",
    "factory",
]

_Arguments = ParamSpec("_Arguments")
_Made = TypeVar("_Made", bound=Part)


def _remedy(example: str, *classes: type) -> Callable[[Any], str]:
    """Returns a remedy: to call a value that makes one of the classes, or else to write the example."""

    def remedy(value: Any) -> str:
        part_class = makes(value)
        if part_class is not None and part_class in classes:
            return f"call it: {uncalled(value)}"
        return f"such as {example}"

    return remedy


def _pattern_remedy(value: Any) -> str:
    if isinstance(value, str) and (ratio := re.fullmatch(r"(\d+):(\d+)", value.strip())):
        kept_count, group_size = map(int, ratio.groups())
        sparsity = 1 - kept_count / max(group_size, 1)
        return f"{value} is patterns.groups({group_size}) at a sparsity of {sparsity:g}"
    if isinstance(value, Coupled):
        return "here each leaf is on its own, such as patterns.channel()"
    return _remedy("patterns.groups(4) or patterns.channel()", Pattern)(value)


def _criterion_remedy(value: Any) -> str:
    if hasattr(value, "criterion"):
        return "that of this method is its attribute criterion"
    return "a function of the parameters and of signals by keyword, such as criteria.magnitude"


def _is_criterion(value: Any) -> bool:
    return is_function(value) and makes(value) is None


def _is_allocation(value: Any) -> bool:
    is_function_of_three = is_function(value) and makes(value) is None and takes(value, 3)
    return isinstance(value, Allocation) or is_function_of_three


def _is_fraction(value: Any) -> bool:
    is_function_of_step = is_function(value) and makes(value) is None and takes(value, 1)
    return isinstance(value, Share) or is_function_of_step or NUMBER.fits(value)


LEAFWISE = Kind("a pattern", lambda value: isinstance(value, Pattern), _pattern_remedy)
PATTERN = Kind("a pattern", lambda value: isinstance(value, Pattern | Coupled), _pattern_remedy)
SCHEDULE = Kind(
    "a schedule",
    lambda value: isinstance(value, Schedule),
    _remedy("schedules.one_shot(sparsity=0.9)", Schedule),
)
ALLOCATION = Kind(
    "an allocation",
    _is_allocation,
    _remedy("allocation.erk(), or a function (params, units, sparsity) -> counts", Allocation),
)
FRACTION = Kind(
    "a number or a function of the step", _is_fraction, _remedy("updates.cosine(0.3, end)", Share)
)
UPDATE = Kind(
    "an update", lambda value: isinstance(value, Update), _remedy("updates.prune()", Update)
)
PENALTY = Kind(
    "a penalty", lambda value: isinstance(value, Penalty), _remedy("penalties.l1(1e-4)", Penalty)
)
BACKWARD = Kind(
    "a Backward", lambda value: isinstance(value, Backward), lambda _: "such as Backward(decay=0.0)"
)
CRITERION = Kind("a criterion", _is_criterion, _criterion_remedy)

_MAYBE_INTEGER = optional(INTEGER)
# Arguments of factories that are annotated like this are checked.
_KINDS: dict[Any, Kind] = {
    bool: BOOLEAN,
    int: INTEGER,
    int | None: _MAYBE_INTEGER,
    float: NUMBER,
    float | None: optional(NUMBER),
    Pattern: LEAFWISE,
    Pattern | None: optional(LEAFWISE),
    AnyPattern: PATTERN,
    AnyAllocation: ALLOCATION,
    Criterion: CRITERION,
    Fraction: FRACTION,
}


def factory(make: Callable[_Arguments, _Made]) -> Callable[_Arguments, _Made]:
    """Decorates a function that makes parts: each part stores the call that made it.

    Arguments that are annotated `int`, `float`, `Pattern` and the like are checked before the call.

    Args:
      make: the function; its return annotation is the class of the part.

    Returns:
      The decorated function; it raises `TypeError` for arguments of a wrong kind, and `ValueError` for
      numbers that are not finite.

    >>> from jaxprune.types import Schedule
    >>> @factory
    ... def once(at: int = 0) -> Schedule:
    ...     return Schedule(due=lambda step: step == at, sparsity=lambda step: 0.5, end=at)
    >>> once(), once(3), once(3) == once(at=3)
    (once(), once(3), True)
    """
    signature = inspect.signature(make)
    annotations = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    kinds = {name: _KINDS[kind] for name, kind in annotations.items() if kind in _KINDS}

    @functools.wraps(make)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Made:
        try:
            bound_arguments = signature.bind(*args, **kwargs)
        except TypeError:
            make(*args, **kwargs)  # raises the same, in Python's own words, which name the function
            raise
        bound_arguments.apply_defaults()
        arguments = {name: _storable(value) for name, value in bound_arguments.arguments.items()}
        check(make.__name__, **{name: (arguments[name], kind) for name, kind in kinds.items()})
        for name, value in arguments.items():
            if NUMBER.fits(value) and not math.isfinite(value):
                raise ValueError(
                    f"{make.__name__}({name}={float(value)}): a finite number is needed; look where this one "
                    "comes from."
                )
        for name, kind in kinds.items():
            if kind in (INTEGER, _MAYBE_INTEGER) and arguments[name] is not None:
                arguments[name] = operator.index(arguments[name])  # np.uint8(2) - 3 is 255
        part = dataclasses.replace(make(**arguments))  # type: ignore[call-arg]
        object.__setattr__(part, "made_by", Call(call, arguments))  # no one else has this copy yet
        return part

    return call


def _storable(value: Any) -> Any:
    """Returns an argument to store: a copy of iterators, which are read once, and of lists and dicts."""
    if isinstance(value, Iterator):
        return tuple(value)
    return copy.copy(value) if type(value) in (list, dict) else value
