"""What a reader must not do with a stranger's file: run code, write elsewhere, fill the memory."""

import contextlib
import os
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

RUNS = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
)
WRITES = ("os.remove", "os.rename", "os.mkdir", "os.symlink", "os.truncate", "shutil.rmtree")
_seen: list[str] | None = None


def _is_compiled(path: Any) -> bool:
    """Whether JAX keeps a compiled program there, as another test has told it to."""
    cache = jax.config.jax_compilation_cache_dir
    return bool(cache) and os.fsdecode(path).startswith(cache)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event in RUNS or event in WRITES:
        _seen.append(f"{event}{arguments}")
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not _is_compiled(arguments[0]):
            _seen.append(f"open {arguments[0]!r} to write")


sys.addaudithook(_hook)  # for as long as the process lives; it hears only while `watched` says so


@contextlib.contextmanager
def watched(megabytes: float) -> Iterator[list[str]]:
    """Collects what is run and written meanwhile, and fails above so many megabytes of new memory."""
    global _seen
    heard: list[str] = []
    tracemalloc.start()
    _seen = heard
    try:
        yield heard
    finally:
        _seen = None
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    assert peak <= megabytes, f"{peak:.0f} MB of memory, more than {megabytes}"


def hears(folder: Path) -> bool:
    """Whether the hook works at all."""
    with watched(100) as heard:
        (folder / "written").write_text("x", encoding="utf-8")
        os.remove(folder / "written")
    return len(heard) == 2
