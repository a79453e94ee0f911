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

__all__ = ["load", "save"]

_KIND = "jaxprune masks of a run"
_VERSION = 2  # 1 had no manifest


def save(path: Path, masks: Any) -> None:
    """Writes the masks, whole or not at all."""
    arrays, without = {}, []
    named = jax.tree_util.tree_leaves_with_path(masks_lib.unpack(masks), is_leaf=_is_nothing)
    for keys, mask in named:
        name = "/".join(masks_lib.keys_of(keys))
        if mask is None:
            without.append(name)
            continue
        arrays[f"{name}:bits"] = np.packbits(np.asarray(mask))
        arrays[f"{name}:shape"] = np.array(mask.shape, np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"without": without}
    array_files.write(path, arrays, kind=_KIND, version=_VERSION, about=about)


def load(path: Path, params: Any) -> Any:
    """Reads the masks of `params`: bool arrays, `None` at leaves without one.

    Raises:
      UserError: the file is damaged, or holds the masks of other parameters; it names the folder that must be
        moved away for them to be made anew.
    """
    try:
        stored = array_files.read(path, kind=_KIND, version=_VERSION)
        masks = _masks(stored.arrays, stored.about, params)
        masks_lib.validate(params, masks)
    except (OSError, ValueError) as e:
        reason = (e.strerror or str(e)) if isinstance(e, OSError) else str(e)
        raise UserError(
            f"{path}: cannot read masks: {reason.rstrip('.')}; move {_maker(path)} away and run the same "
            "command again, which makes them anew."
        ) from e
    return masks


def _masks(arrays: dict[str, np.ndarray], about: dict[str, Any], params: Any) -> Any:
    """The masks at the leaves of the parameters; every leaf is accounted for."""
    names = masks_lib.paths(params)
    without = about.get("without")
    if not isinstance(without, list) or not all(isinstance(name, str) for name in without):
        raise DamagedError("its manifest does not say which leaves have no mask")
    unpacked: dict[str, jax.Array | None] = dict.fromkeys(names)
    for name in names:
        if f"{name}:bits" in arrays:
            unpacked[name] = _mask(
                name, arrays.pop(f"{name}:bits"), arrays.pop(f"{name}:shape", None)
            )
        elif not any(name == end or name.startswith(f"{end}/") or not end for end in without):
            raise DamagedError(f"the leaf {name!r} is not in it")
    if arrays:
        raise DamagedError(f"it has {min(arrays)!r}, of which the parameters have no leaf")
    return jax.tree.structure(params).unflatten([unpacked[name] for name in names])


def _mask(name: str, bits: np.ndarray, shape: np.ndarray | None) -> jax.Array:
    if shape is None or shape.dtype != np.int64 or shape.ndim != 1 or (shape < 0).any():
        raise DamagedError(f"{name!r} has no shape")
    sizes = shape.tolist()
    weights = math.prod(sizes)
    if bits.dtype != np.uint8 or bits.shape != (-(-weights // 8),):
        raise DamagedError(f"{name!r} of the shape {tuple(sizes)} has {bits.size} bytes of bits")
    return jnp.asarray(np.unpackbits(bits, count=weights).astype(bool).reshape(sizes))


def _is_nothing(node: Any) -> bool:
    return node is None


def _maker(path: Path) -> Path:
    """The folder of the training that has made a file: the whole of its seed."""
    seeds = (folder for folder in path.parents if re.fullmatch(r"seed_\d+", folder.name))
    return next(seeds, path.parent)
