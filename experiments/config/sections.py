"""Checks of a study's section of a config, before JAX is imported."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.config import user_files
from experiments.config.parts import UserError, check_part, check_type, part, unknown
from experiments.config.ranges import MOST_STEPS

__all__ = [
    "check_criterion",
    "check_end",
    "check_expression",
    "check_integer",
    "check_optimizer",
    "check_sequence",
    "check_single_matches",
    "check_tables",
    "section_of",
]


def section_of(cfg: ConfigDict, study: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a study's section, at their defaults where the config says nothing.

    Args:
      cfg: the config.
      study: the section's name.
      fields: its fields and their defaults.

    Raises:
      UserError: the section has another field.
    """
    own: Any = cfg[study]
    stored = own.to_dict()
    for name in stored:
        if name not in fields:
            raise UserError(unknown(f"config.{study}: no field", name, fields, "Fields"))
    return {**fields, **stored}


def check_end(
    spec: Mapping[str, Any] | None, steps: int, where: str, steps_where: str = "config.steps"
) -> None:
    """Refuses a method or gate whose schedule ends after training, where that can be read from its part.

    Args:
      spec: the part, or `None`.
      steps: updates of the training.
      where: in the config, to blame.
      steps_where: the field that says how many updates there are.
    """
    schedule = (spec or {}).get("schedule")
    for place, arguments in ((where, spec or {}), (f"{where}.schedule", schedule)):
        for name in ("end", "at", "begin"):
            step = arguments.get(name) if isinstance(arguments, Mapping | ConfigDict) else None
            if type(step) is int and step > steps:
                raise UserError(
                    f"{place}.{name}={step}: training ends after {steps_where}={steps}; the target would "
                    "not be reached."
                )


def check_criterion(spec: Any, where: str) -> None:
    """Raises `UserError` unless a name, a part or `path/to/file.py:function` is a criterion.

    Args:
      spec: one of these.
      where: in the config, to blame.
    """
    if isinstance(spec, str) and user_files.is_file(spec):
        user_files.check(spec, where)
    else:
        check_part("criterion", part(spec) if isinstance(spec, str) else spec, where)


def check_optimizer(spec: Any, where: str) -> None:
    """Raises `UserError` unless a part is an optimizer that learns.

    Args:
      spec: the part.
      where: in the config, to blame.
    """
    check_part("optimizer", spec, where)
    if spec.get("learning_rate") == 0:
        raise UserError(f"{where}.learning_rate=0: more than 0 is needed, or nothing is trained.")


def check_integer(value: Any, where: str, least: int) -> None:
    """Raises `UserError` unless a value is an integer from `least` to `MOST_STEPS`.

    Args:
      value: of the user's.
      where: in the config, to blame.
      least: what it must be at least.
    """
    check_type("int", value, where)
    if not least <= value <= MOST_STEPS:
        raise UserError(f"{where}={value}: at least {least} and at most {MOST_STEPS} is needed.")


def check_expression(value: Any, where: str) -> None:
    """Raises `UserError` unless a value is a regular expression.

    Args:
      value: of the user's.
      where: in the config, to blame.
    """
    check_type("str", value, where)
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as e:
        raise UserError(f"{where}={value!r} is no regular expression: {e}.") from e


def check_single_matches(
    values: Mapping[str, Any] | ConfigDict, names: Iterable[str], where: str
) -> None:
    """Raises `UserError` if two regular expressions match a name with different values.

    A dict of a config has no order by which one of them could count.

    Args:
      values: by regular expression, searched in the names.
      names: that are given a value.
      where: in the config, to blame.
    """
    for name in names:
        matching = [pattern for pattern in values if re.search(pattern, name)]
        if any(values[pattern] != values[matching[0]] for pattern in matching):
            raise UserError(
                f"{where}: {matching[0]!r} and {matching[1]!r} both match {name!r}, and a config's dict has "
                "no order; write expressions of which one matches."
            )


def check_tables(value: Any, names: Callable[[], Sequence[str]], where: str) -> None:
    """Raises `UserError` if a dict within a part has two expressions that match a leaf with different values.

    Args:
      value: a part, or a dict or sequence that may hold some.
      names: gives the paths of the leaves; called only where there is such a dict.
      where: in the config, to blame.
    """
    if isinstance(value, tuple | list):
        for element in value:
            check_tables(element, names, where)
    elif isinstance(value, Mapping | ConfigDict):
        for key, item in value.items():
            place = f"{where}.{key}"
            is_dict = isinstance(item, Mapping | ConfigDict)
            is_table = is_dict and "name" in value and "name" not in item and len(item) > 1
            if is_table and _are_expressions(item):
                check_single_matches(item, names(), place)
            check_tables(item, names, place)


def _are_expressions(keys: Iterable[Any]) -> bool:
    """Returns whether all are regular expressions; steps of a schedule, for example, are not."""
    try:
        return all(isinstance(key, str) and re.compile(key) for key in keys)
    except (re.error, RecursionError, OverflowError):
        return False


def check_sequence(value: Any, where: str) -> None:
    """Raises `UserError` unless a value is a tuple or a list.

    Args:
      value: of the user's.
      where: in the config, to blame.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"{where}={value!r}: a tuple is needed.")
