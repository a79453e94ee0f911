"""Starts of a run: software, hardware and source revision of each, where they changed."""

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from experiments.runs import files
from experiments.runs.files import read_json, write_json

__all__ = ["current_time", "read_starts", "record_start", "versions"]

_PACKAGES = ("jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, Any]:
    """Returns software, hardware and source revision of this process."""
    import jax

    return {
        "python": platform.python_version(),
        **{package: _installed_version(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "device_count": jax.device_count(),
        "git": _git_state(),
    }


def record_start(path: Path) -> None:
    """Adds the versions of this start to a file, unless they are those of the last start.

    Args:
      path: of `versions.json`.
    """
    starts = read_starts(path)
    current_versions = versions()
    if not starts or {**starts[-1], "time": None} != {**current_versions, "time": None}:
        write_json(
            path,
            [
                files.seal(start)
                for start in [*starts, {"time": current_time(), **current_versions}]
            ],
        )


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Returns the versions that `versions.json` holds for each start of a run, without checksums.

    Args:
      path: of the file; there may be none.

    Raises:
      UserError: it is damaged.
    """
    starts = read_json(path, list) if path.exists() else []
    return [files.unsealed(start, path) for start in starts]


def current_time() -> str:
    """Returns the local time, with its zone, as ISO 8601 has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor()


def _git_state() -> dict[str, Any] | None:
    """Returns the revision of these sources and whether they were edited since; `None` outside git."""

    def run_git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "revision": run_git("rev-parse", "HEAD"),
            "dirty": bool(run_git("status", "--porcelain", "-uno")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
