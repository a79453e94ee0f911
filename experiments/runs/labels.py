"""Labels that the user chooses, which name folders in a run folder."""

import os
import re
from typing import Any

from experiments.config import UserError
from experiments.runs.folder import RESERVED
from experiments.runs.taken_seeds import SEED_FOLDER

__all__ = ["check_label"]

_MAX_LENGTH = 100  # letters
_MAX_BYTES = 200  # of them: file systems have room for 255, with what is added to a label
_ALLOWED_SIGNS = "()+=%,-"  # beside letters, digits and spaces


def check_label(label: Any, where: str, also: str = "") -> None:
    """Refuses a label that cannot name a folder in a run folder.

    Args:
      label: the label that the user chose.
      where: the field of the config that an error names.
      also: signs that are allowed beside the usual ones.
    """
    if not isinstance(label, str):
        raise UserError(f"{where}: the label {label!r} is no string; write it in quotes.")
    allowed_signs = re.escape(_ALLOWED_SIGNS + also)
    if (
        not re.fullmatch(rf"[\w{allowed_signs}][\w{allowed_signs} ]*", label)
        or label != label.strip()
        or len(label) > _MAX_LENGTH
    ):
        raise UserError(
            f"{where}: the label {label[: _MAX_LENGTH + 1]!r} cannot name a folder; use at most "
            f"{_MAX_LENGTH} letters, digits, spaces and {_ALLOWED_SIGNS}{also}"
        )
    if label.casefold() in RESERVED or SEED_FOLDER.fullmatch(label):
        raise UserError(
            f"{where}: the label {label!r} is a name that a run folder uses itself; choose another."
        )
    try:
        size = len(os.fsencode(label))
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: this locale cannot spell the label {label!r}; set PYTHONUTF8=1, or use ASCII."
        ) from error
    if size > _MAX_BYTES:
        raise UserError(
            f"{where}: the label {label!r} has {size} bytes, and file names have room for {_MAX_BYTES}; "
            "choose a shorter one."
        )
