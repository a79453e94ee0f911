"""Masks on disk: one bit per weight, in an `.npz` that NumPy alone can read.

Per leaf with a mask there are two arrays, `<path>:bits`, eight weights to a byte, and `<path>:shape`; the
manifest lists the leaves without one.
"""

import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import UserError
from jaxprune import masks as masks_lib
from jaxprune.storage import array_files
from jaxprune.storage.sealed import DamagedError
from jaxprune.trees import leaves_with_keys

__all__ = ["load", "save"]

_KIND = "jaxprune masks of a run"
_VERSION = 2  # 1 had no manifest


def save(path: Path, masks: Any) -> None:
    """Writes masks to a file, whole or not at all.

    Args:
      path: the file; its folder is made if it is missing.
      masks: tree of bool arrays, `None` at leaves without a mask.
    """
    arrays = {}
    unmasked_paths = []
    for keys, mask in leaves_with_keys(masks_lib.unpack(masks), lambda _, node: node is None):
        leaf_path = "/".join(keys)
        if mask is None:
            unmasked_paths.append(leaf_path)
            continue
        arrays[f"{leaf_path}:bits"] = np.packbits(np.asarray(mask))
        arrays[f"{leaf_path}:shape"] = np.array(mask.shape, np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = {"without": unmasked_paths}
    array_files.write(path, arrays, kind=_KIND, version=_VERSION, about=manifest)


def load(path: Path, params: Any) -> Any:
    """Reads the masks of `params`: bool arrays, `None` at leaves without a mask.

    Raises:
      UserError: the file is damaged, or holds the masks of other parameters; it names the folder that must be
        moved away for them to be made anew.
    """
    try:
        stored = array_files.read(path, kind=_KIND, version=_VERSION)
        masks = _unpack_masks(stored.arrays, stored.about, params)
        masks_lib.validate(params, masks)
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise UserError(
            f"{path}: cannot read masks: {reason.rstrip('.')}; move {_seed_folder_of(path)} away and run "
            "the same command again, which makes them anew."
        ) from error
    return masks


def _unpack_masks(arrays: dict[str, np.ndarray], manifest: dict[str, Any], params: Any) -> Any:
    """Returns the tree of masks of the parameters.

    Raises:
      DamagedError: a leaf is neither masked nor listed as without a mask, or an array is of no leaf.
    """
    leaf_paths = masks_lib.paths(params)
    unmasked_paths = manifest.get("without")
    if not isinstance(unmasked_paths, list) or not all(
        isinstance(leaf_path, str) for leaf_path in unmasked_paths
    ):
        raise DamagedError("its manifest does not say which leaves have no mask")
    masks: dict[str, jax.Array | None] = dict.fromkeys(leaf_paths)
    for leaf_path in leaf_paths:
        if f"{leaf_path}:bits" in arrays:
            masks[leaf_path] = _unpack_mask(
                leaf_path, arrays.pop(f"{leaf_path}:bits"), arrays.pop(f"{leaf_path}:shape", None)
            )
        elif not any(
            leaf_path == unmasked_path
            or leaf_path.startswith(f"{unmasked_path}/")
            or not unmasked_path
            for unmasked_path in unmasked_paths
        ):
            raise DamagedError(f"the leaf {leaf_path!r} is not in it")
    if arrays:
        raise DamagedError(f"it has {min(arrays)!r}, of which the parameters have no leaf")
    return jax.tree.structure(params).unflatten([masks[leaf_path] for leaf_path in leaf_paths])


def _unpack_mask(leaf_path: str, bits: np.ndarray, stored_shape: np.ndarray | None) -> jax.Array:
    if (
        stored_shape is None
        or stored_shape.dtype != np.int64
        or stored_shape.ndim != 1
        or (stored_shape < 0).any()
    ):
        raise DamagedError(f"{leaf_path!r} has no shape")
    mask_shape = stored_shape.tolist()
    weight_count = math.prod(mask_shape)
    if bits.dtype != np.uint8 or bits.shape != (-(-weight_count // 8),):
        raise DamagedError(
            f"{leaf_path!r} of the shape {tuple(mask_shape)} has {bits.size} bytes of bits"
        )
    return jnp.asarray(np.unpackbits(bits, count=weight_count).astype(bool).reshape(mask_shape))


def _seed_folder_of(path: Path) -> Path:
    """Returns the folder of the seed whose training made a file."""
    seed_folders = (folder for folder in path.parents if re.fullmatch(r"seed_\d+", folder.name))
    return next(seed_folders, path.parent)
