"""Ranges that docstrings state are ranges that functions hold to: what lies outside is refused."""

import inspect
import math
import re
from typing import NamedTuple

import optax
import pytest

import jaxprune as jp

ROOMS = (jp.methods, jp.schedules, jp.allocation, jp.updates, jp.patterns, jp.penalties, jp.nn)
# What a docstring says of an argument, and numbers that it so excludes.
STATED = {
    r"in \[0, 1\)": (-0.1, 1.0),
    r"in \[0, 1\]|from 0 to 1": (-0.1, 1.1),
    r"in \(0, 1\)": (0.0, 1.0),
    r"in \(0, 1\]": (0.0, 1.1),
    r"above 0": (0.0, -1.0),
    r"at least 1": (0,),
    r"at least 0": (-1,),
}
# Values of arguments without a default.
GIVEN = {
    **dict.fromkeys(("sparsity", "budget", "initial"), 0.5),
    **dict.fromkeys(("fraction", "rate", "decay", "backward_sparsity"), 0.3),
    **dict.fromkeys(("strength", "ridge", "c", "margin", "quality"), 0.1),
    "begin": 0,
    "end": 12,
    "every": 2,
    "levels": 3,
    "cycles": 2,
    "count": 4,
    "axis": "out",
    "n": 2,
    "m": 4,
    "size": 2,
    "shape": (2, 2),
    "inner": optax.sgd(0.1),
}


class Case(NamedTuple):
    make: object
    arguments: dict
    argument: str
    outside: float


def documented(function):
    """Argument -> what the docstring says of it."""
    section = re.search(r"Args:\n(.*?)(\n\s*\n|\Z)", inspect.getdoc(function) or "", re.DOTALL)
    entries = re.findall(
        r"^  (\w+): (.*(?:\n    .*)*)", section.group(1) if section else "", re.MULTILINE
    )
    return {name: " ".join(text.split()) for name, text in entries}


def factories():
    """Names of functions, with the functions, their parameters and values of those without a default."""
    for room in ROOMS:
        for name in room.__all__:
            make = getattr(room, name)
            parameters = inspect.signature(make).parameters
            needed = [p.name for p in parameters.values() if p.default is p.empty]
            if all(argument in GIVEN for argument in needed):
                arguments = {argument: GIVEN[argument] for argument in needed}
                yield f"{room.__name__}.{name}", make, parameters, arguments


def cases():
    for name, make, parameters, arguments in factories():
        for argument, text in documented(make).items():
            if argument not in parameters:
                continue
            meant = [outside for stated, outside in STATED.items() if re.search(stated, text)]
            is_integer = "int" in str(parameters[argument].annotation).split(" |")[0]
            for value in meant[0] if meant else ():
                outside = math.floor(value) if is_integer else value
                identity = f"{name}({argument}={outside})"
                yield pytest.param(Case(make, arguments, argument, outside), id=identity)


CASES = list(cases())


def test_the_law_sees_arguments():
    assert len(CASES) > 100


@pytest.mark.parametrize("case", CASES)
def test_what_a_docstring_excludes_is_refused(case):
    case.make(**case.arguments)
    with pytest.raises((ValueError, TypeError), match=rf"{case.argument}|{case.outside:g}"):
        case.make(**{**case.arguments, case.argument: case.outside})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_part_is_made_of_numbers_that_are_not_finite(value):
    tried = 0
    for name, make, parameters, arguments in factories():
        for parameter in parameters.values():
            if parameter.annotation is float and not name.startswith("jaxprune.nn."):
                with pytest.raises(ValueError, match=parameter.name):
                    make(**{**arguments, parameter.name: value})
                tried += 1
    assert tried > 50
