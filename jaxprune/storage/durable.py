"""Files that are there whole or not at all, after a power cut too."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["ENDING", "is_abandoned", "sync_folder", "sync_tree", "unused_path", "whole_file"]

ENDING = ".tmp"  # of the names of `unused_path`
_NAME = re.compile(rf"\..+\.(\d+)\.[0-9a-f]{{8}}{re.escape(ENDING)}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write, which takes the place of `path` in one step when the block ends.

    A killed process leaves the old file or none; an error leaves no litter. When the block has ended, file
    and name are on the disk. A symlink in the place of the path is replaced, not followed.

    Raises:
      IsADirectoryError: if there is a folder.
    """
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(f"{path} is a folder; name a file in it.")
    partial_path = unused_path(path)
    with partial_path.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial_path.replace(path)
        except BaseException:
            partial_path.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def unused_path(path: Path) -> Path:
    """Returns a new path in the same folder; no other process, dead or alive, uses it."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{ENDING}")


def is_abandoned(path: Path) -> bool:
    """Returns whether a path of `unused_path` was named by a process that is no longer on this machine.

    Other names, and those of whatever process has the number now, are not.

    >>> is_abandoned(unused_path(Path("plan.json")))
    False
    """
    match = _NAME.fullmatch(path.name)
    if match is None or os.name != "posix":  # elsewhere a process cannot be asked without ending it
        return False
    try:
        os.kill(int(match[1]), 0)
    except (ProcessLookupError, OverflowError):  # no process, and no number of one
        return True
    except PermissionError:  # of another user
        pass
    return False


def sync_tree(folder: Path) -> None:
    """Brings all files of a folder to the disk, so that they are there once the folder is renamed."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the operating system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems of networks cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
