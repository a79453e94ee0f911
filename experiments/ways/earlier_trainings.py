"""What a training takes over from another one of the same comparison and seed."""

from pathlib import Path
from typing import Any

import optax

from experiments.runs import mask_files
from experiments.training.divergence import DivergedError
from experiments.training.failures import failure
from experiments.training.loop import last_state
from experiments.training.trainer import TrainState
from experiments.ways.start import Setting

__all__ = ["dense_folder", "masks", "same_point_folder", "state"]


def dense_folder(setting: Setting, label: str) -> Path:
    """Returns the folder of a contestant that has no sparsity to vary.

    Args:
      setting: of the training that begins.
      label: of the contestant.
    """
    return setting.run / label / setting.folder.name


def same_point_folder(setting: Setting, label: str) -> Path:
    """Returns the folder of a contestant's training at the same sparsity or strength.

    Args:
      setting: of the training that begins.
      label: of the contestant.
    """
    return setting.run / label / setting.folder.parent.name / setting.folder.name


def state(setting: Setting, folder: Path, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state that another training ended with.

    Args:
      setting: of the training that begins.
      folder: of the other training.
      optimizer: that it was trained by.

    Raises:
      DivergedError: it has no result.
    """
    _require_finished(setting, folder)
    like = TrainState(setting.params, setting.rest, optimizer.init(setting.params))
    return last_state(folder, like)


def masks(setting: Setting, folder: Path) -> Any:
    """Returns the masks that another training ended with.

    Args:
      setting: of the training that begins.
      folder: of the other training.

    Raises:
      DivergedError: it has no result.
    """
    _require_finished(setting, folder)
    return mask_files.load(folder / "masks.npz", setting.params)


def _require_finished(setting: Setting, folder: Path) -> None:
    if failure(folder) is not None:
        label, earlier_label = (
            path.relative_to(setting.run).parts[0] for path in (setting.folder, folder)
        )
        raise DivergedError(
            f"{label}: there is nothing to begin with, as {earlier_label} diverged."
        )
