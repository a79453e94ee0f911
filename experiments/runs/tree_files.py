"""Trees of arrays on disk, one array per leaf, in an `.npz` that NumPy alone can read."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import UserError
from jaxprune.storage import array_files
from jaxprune.storage.sealed import DamagedError

__all__ = ["load", "save"]

_KIND = "jaxprune arrays of a run"
_VERSION = 1


def save(path: Path, tree: Any) -> None:
    """Writes the arrays of a tree to a file, whole or not at all.

    Args:
      path: the file; its folder is made if it is missing.
      tree: any pytree of arrays and numbers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = {jax.tree_util.keystr(key_path): np.asarray(leaf) for key_path, leaf in leaves}
    array_files.write(path, arrays, kind=_KIND, version=_VERSION)


def load(path: Path, template: Any) -> Any:
    """Reads the arrays of a tree.

    Args:
      path: the file.
      template: tree of the same leaves, shapes and dtypes.

    Raises:
      UserError: the file is missing or damaged, or holds another tree.
    """
    try:
        stored = array_files.read(path, kind=_KIND, version=_VERSION).arrays
        paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(template)
        paths = [jax.tree_util.keystr(key_path) for key_path, _ in paths_and_leaves]
        if set(paths) != set(stored):
            different_path = min(set(paths) ^ set(stored))
            raise DamagedError(f"it is of another network, which differs in {different_path}")
        for leaf_path, (_, leaf) in zip(paths, paths_and_leaves, strict=True):
            found = stored[leaf_path]
            needed = np.shape(leaf), jnp.result_type(leaf)
            if (found.shape, found.dtype) != needed:
                raise DamagedError(
                    f"its {leaf_path} is {found.dtype}{list(found.shape)}, and {needed[1]}"
                    f"{list(needed[0])} is needed"
                )
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise UserError(
            f"{path}: cannot read the arrays of a training: {reason.rstrip('.')}; move its run folder away "
            "and run the same command again, which makes them anew."
        ) from error
    return treedef.unflatten([jnp.asarray(stored[leaf_path]) for leaf_path in paths])
