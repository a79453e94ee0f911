"""`config.json` of a run folder: the study and every field of the run, and what has to agree with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.config import UserError
from experiments.config.fields import DEFAULTS, STUDIES
from experiments.runs import files
from experiments.runs.files import read_json, write_json

__all__ = [
    "as_json",
    "check_config",
    "check_study",
    "differences",
    "naming_fields",
    "record_config",
    "settings_of",
    "stored_study",
]

_STUDY = "study"  # which study the run is of: no field of configs, but one of `config.json`
_DESCRIPTIVE_FIELDS = ("paper",)  # says what a run is compared with and changes nothing in it


def settings_of(cfg: ConfigDict, study: str) -> dict[str, Any]:
    """Returns the study and every field of a run, as JSON."""
    return {**as_json(cfg), _STUDY: study}


def naming_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what names a run folder: fields that change a run and are not at their defaults.

    The study is among them where it is not the one that the config was written for.
    """
    defaults = {**as_json(DEFAULTS), _STUDY: _own_study(settings)}
    return {
        field: value
        for field, value in settings.items()
        if field not in _DESCRIPTIVE_FIELDS and (field not in defaults or value != defaults[field])
    }


def stored_study(folder: Path) -> str:
    """Returns the study whose run a folder holds.

    Folders from before it was recorded: that of their results, or the one that their config was written for.
    """
    stored = read_json(folder / "config.json", dict)
    if isinstance(study := stored.get(_STUDY), str):
        return study
    try:
        study = read_json(folder / "results.json", dict).get("kind")
    except UserError:  # there are none, or they are damaged
        study = None
    return study if study in STUDIES else _own_study(stored)


def check_study(folder: Path, settings: Mapping[str, Any], remedy: str) -> None:
    """Raises `UserError` if a folder holds a run of another study.

    Args:
      folder: with a `config.json`.
      settings: the study and every field of the run.
      remedy: what the error advises.
    """
    study = stored_study(folder)
    if study != settings[_STUDY]:
        raise UserError(
            f"{folder} holds a run of the study {study!r}, and this is one of {settings[_STUDY]!r}; "
            f"{remedy}."
        )


def _own_study(fields: Mapping[str, Any]) -> str:
    """Returns the study that a config was written for: that of its last section, in the order of `STUDIES`.

    Without a section it is "train". A config of branches has a section for its tickets, too.
    """
    return next((study for study in reversed(STUDIES) if fields.get(study)), STUDIES[0])


def record_config(path: Path, settings: dict[str, Any]) -> None:
    """Writes the config, or refuses it if the folder was made with another."""
    if not path.exists() or check_config(path, settings) != settings:
        write_json(path, settings)


def check_config(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the stored config if it has these settings."""
    stored = read_json(path, dict)
    check_study(path.parent, settings, "set another --workdir")
    if differing := differences(stored, settings):
        raise UserError(
            f"{path.parent} holds a run with other settings: {differing}; set another --workdir."
        )
    return stored


def differences(stored: dict[str, Any], settings: dict[str, Any]) -> str:
    """Returns in words which fields of a stored config are not as asked; "" if all are."""
    stored_fields = _flatten_fields({**DEFAULTS, **stored, _STUDY: None})
    requested_fields = _flatten_fields({**settings, _STUDY: None})
    return ", ".join(
        f"{field} is {stored_fields.get(field)!r}, asked {requested_fields.get(field)!r}"
        for field in sorted(stored_fields.keys() | requested_fields.keys())
        if field.split(".")[0] not in _DESCRIPTIVE_FIELDS
        and stored_fields.get(field) != requested_fields.get(field)
    )


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
