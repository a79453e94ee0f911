"""Lock files: one process at a time works in a folder."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

__all__ = ["InUseError", "locked"]


class InUseError(BlockingIOError):
    """Raised where another process holds a lock; the text says which: "process 7 on host"."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file while the block runs; the operating system releases it when the process ends.

    The file stays when the lock is released: removed, it could be locked twice. Where the operating system
    or the file system has no such locks, nothing is held.

    Args:
      path: of the file, which is made if it is not there; its folder must be.

    Raises:
      InUseError: another process, or another thread of this one, holds it.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(file.read(200).strip() or "another process") from None
        except OSError:  # some file systems of networks have no locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
