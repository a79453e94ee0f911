"""`config.json` of a run folder: every field of the run, and what has to agree with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config import UserError
from experiments.config.fields import DEFAULTS
from experiments.runs import files
from experiments.runs.files import read_json, write_json

__all__ = ["as_json", "check_config", "differences", "non_default_fields", "record_config"]

_DESCRIPTIVE_FIELDS = ("paper",)  # says what a run is compared with and changes nothing in it


def record_config(path: Path, settings: dict[str, Any]) -> None:
    """Writes the config, or refuses it if the folder was made with another."""
    if not path.exists() or check_config(path, settings) != settings:
        write_json(path, settings)


def check_config(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the stored config if it has these settings."""
    stored = read_json(path, dict)
    if differing := differences(stored, settings):
        raise UserError(
            f"{path.parent} holds a run with other settings: {differing}; set another --workdir."
        )
    return stored


def differences(stored: dict[str, Any], settings: dict[str, Any]) -> str:
    """Returns in words which fields of a stored config are not as asked; "" if all are."""
    stored_fields = _flatten_fields({**DEFAULTS, **stored})
    requested_fields = _flatten_fields(settings)
    return ", ".join(
        f"{field} is {stored_fields.get(field)!r}, asked {requested_fields.get(field)!r}"
        for field in sorted(stored_fields.keys() | requested_fields.keys())
        if field.split(".")[0] not in _DESCRIPTIVE_FIELDS
        and stored_fields.get(field) != requested_fields.get(field)
    )


def non_default_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that change a run and are not at their defaults."""
    defaults = as_json(DEFAULTS)
    return {
        field: value
        for field, value in fields.items()
        if field not in _DESCRIPTIVE_FIELDS and (field not in defaults or value != defaults[field])
    }


def as_json(value: Any) -> Any:
    """Returns a config as plain JSON: tuples become lists, names strings.

    Raises:
      UserError: something in it is neither.
    """
    try:
        return files.strict(value)
    except TypeError as error:
        raise UserError(f"config: {error}; a config holds plain values.") from error


def _flatten_fields(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested fields by their dotted paths."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: list(tree) if isinstance(tree, tuple) else tree}
    return {
        path: leaf
        for key, value in tree.items()
        for path, leaf in _flatten_fields(value, f"{prefix}.{key}" if prefix else key).items()
    }
