"""Trainings that ended without a result: why is kept in their folder, so that they are not tried again."""

from pathlib import Path
from typing import Any

from experiments.runs.files import read_sealed, write_sealed

__all__ = ["failure", "record_failure"]

_NAME = "failed.json"


def failure(folder: Path) -> dict[str, Any] | None:
    """Returns why a training has no result, as it was recorded; `None` if nothing was.

    Args:
      folder: of the training.
    """
    path = folder / _NAME
    return read_sealed(path, required=True) if path.exists() else None


def record_failure(folder: Path, error: Exception, **more: Any) -> dict[str, Any]:
    """Records why a training has no result, and returns what was recorded.

    Args:
      folder: of the training.
      error: what ended it.
      **more: figures to keep beside it.
    """
    write_sealed(folder / _NAME, {"failed": str(error), **more})
    return read_sealed(folder / _NAME, required=True)
