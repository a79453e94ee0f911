"""Labels of the user's, which name folders in a run folder."""

import os
import re

from experiments.config import UserError
from experiments.runs.folder import RESERVED

__all__ = ["check_label"]

_LONGEST = 100  # letters
_SIGNS = "()+=%,-"  # beside letters, digits and spaces


def check_label(label: str, where: str, also: str = "") -> None:
    """Refuses a label that cannot name a folder in a run folder.

    Args:
      label: of the user's.
      where: in the config, to blame.
      also: signs that it may have besides.
    """
    signs = re.escape(_SIGNS + also)
    if (
        not re.fullmatch(rf"[\w{signs}][\w{signs} ]*", label)
        or label != label.strip()
        or len(label) > _LONGEST
    ):
        raise UserError(
            f"{where}: the label {label[: _LONGEST + 1]!r} cannot name a folder; use at most {_LONGEST} "
            f"letters, digits, spaces and {_SIGNS}{also}"
        )
    if label.casefold() in RESERVED:
        raise UserError(
            f"{where}: the label {label!r} is a name that a run folder uses itself; choose another."
        )
    try:
        os.fsencode(label)
    except UnicodeEncodeError as e:
        raise UserError(
            f"{where}: this locale cannot spell the label {label!r}; set PYTHONUTF8=1, or use ASCII."
        ) from e
