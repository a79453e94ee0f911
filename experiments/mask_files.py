"""Masks on disk: one bit per weight, in an `.npz` that NumPy alone can read."""

import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import UserError
from jaxprune import masks as masks_lib

__all__ = ["load", "save"]


def save(path: Path, masks: Any) -> None:
    """Writes the masks, whole or not at all: per leaf its path, the packed bits and the shape."""
    arrays = {}
    for keys, mask in jax.tree_util.tree_leaves_with_path(masks):
        name = "/".join(masks_lib.keys_of(keys))
        arrays[f"{name}:bits"] = np.packbits(np.asarray(mask))
        arrays[f"{name}:shape"] = np.array(mask.shape, np.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(path)


def load(path: Path, params: Any) -> Any:
    """Reads the masks of `params`: bool arrays, `None` at leaves without one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        raise UserError(f"{path}: cannot read masks ({e}); run the experiment again.") from e

    def mask(name: str) -> jax.Array | None:
        if f"{name}:bits" not in stored:
            return None
        shape = tuple(stored[f"{name}:shape"].tolist())
        bits = np.unpackbits(stored[f"{name}:bits"], count=int(np.prod(shape)))
        return jnp.asarray(bits.astype(bool).reshape(shape))

    masks = jax.tree.structure(params).unflatten(map(mask, masks_lib.paths(params)))
    masks_lib.validate(masks, params)
    return masks
