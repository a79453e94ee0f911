"""The levels of a lottery ticket on disk, from which other trainings can branch later.

<seed folder>/masks/level_<nn>.npz    the masks of each level
<seed folder>/levels/level_<nn>.npz   what each level has trained: parameters, other variables
<seed folder>/levels/point.npz        the rewinding point: these, and the optimizer's state
"""

from pathlib import Path
from typing import Any

from experiments.runs import mask_files, tree_files

__all__ = ["LevelFiles"]


class LevelFiles:
    """The levels of the ticket of one seed.

    Args:
      folder: of the seed.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def save_level(self, level: int, masks: Any, variables: Any) -> None:
        """Writes the masks of a level, and what it has trained.

        Args:
          level: index of the level.
          masks: tree of bool arrays, `None` at leaves without a mask.
          variables: tree of arrays.
        """
        mask_files.save(self._masks_path(level), masks)
        tree_files.save(self._variables_path(level), variables)

    def masks(self, level: int, params: Any) -> Any:
        """Returns the masks of a level.

        Args:
          level: index of the level.
          params: whose masks they are.
        """
        return mask_files.load(self._masks_path(level), params)

    def variables(self, level: int, template: Any) -> Any:
        """Returns what a level has trained, a tree like the template."""
        return tree_files.load(self._variables_path(level), template)

    def save_point(self, state: Any) -> None:
        """Writes the rewinding point: any tree of arrays."""
        tree_files.save(self._folder / "levels" / "point.npz", state)

    def point(self, template: Any) -> Any:
        """Returns the rewinding point, a tree like the template."""
        return tree_files.load(self._folder / "levels" / "point.npz", template)

    def _masks_path(self, level: int) -> Path:
        return self._folder / "masks" / f"level_{level:02d}.npz"

    def _variables_path(self, level: int) -> Path:
        return self._folder / "levels" / f"level_{level:02d}.npz"
