"""The lock of a run folder: one process at a time works in it, and `holder` says which."""

import os
import socket
from pathlib import Path

import filelock

from experiments.config import UserError
from experiments.runs import files

__all__ = ["acquire_lock"]


def acquire_lock(path: Path, remedy: str = "set another --workdir") -> filelock.BaseFileLock:
    """Takes the lock of a run folder; the operating system releases it when this process ends.

    Args:
      path: of the file.
      remedy: what an error advises, beside waiting.

    Raises:
      UserError: another process has it.
    """
    holder_path = path.with_name("holder")
    for file_path in (path, holder_path):
        if file_path.is_symlink() or (file_path.exists() and not file_path.is_file()):
            raise UserError(
                f"{file_path} is in the way: a plain file is needed there; move it away."
            )
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{path.parent} is in use by {_describe_holder(holder_path)}; wait until it ends, or "
            f"{remedy}."
        ) from None
    files.write_text(holder_path, f"process {os.getpid()} on {socket.gethostname()}\n")
    return lock


def _describe_holder(holder_path: Path) -> str:
    """Returns who has the lock, in words."""
    try:
        return (
            holder_path.read_text(encoding="utf-8", errors="replace").strip()[:200]
            or "another process"
        )
    except OSError:
        return "another process"
