"""Run folders: one per setting, with what is needed to know later how its numbers came about.

    <workdir>/<config name>-<8 hex digits>/
      config.json     every field, defaults included
      versions.json   software, hardware and git revision of each start, where they changed
      results.json    once `finish` was called, with a checksum; done says when
      lock            held while a process works here; holder says which
      seed_<n>/       the same per seed: metrics, checkpoints, results.json, done

No file of the user's is ever deleted, nothing is written through a symlink, and no setting's folder ever
serves another.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock
from ml_collections import ConfigDict

from experiments.config import UserError
from experiments.config.fields import DEFAULTS
from experiments.runs import files
from experiments.runs.files import read_json, write_json

__all__ = [
    "RESERVED",
    "Folder",
    "RunFolder",
    "check_writable",
    "folder_name",
    "read_starts",
    "versions",
]

RESERVED = (
    "done",
    "lock",
    "holder",
    "criteria",
)  # names without a dot that a run folder uses itself
_DESCRIPTIVE = ("paper",)  # says what a run is compared with and changes nothing in it
_ITEMS = "items"  # a list of results, in the object that carries the checksum
_PACKAGES = ("jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def folder_name(config_name: str, cfg: ConfigDict) -> str:
    """The config's name and the hash of its fields that are not at their defaults.

    >>> from experiments.config import config
    >>> folder_name("lenet", config()), folder_name("lenet", config(steps=500))
    ('lenet-44136fa3', 'lenet-cc2fd588')
    """
    canonical = json.dumps(_settings(_to_json(cfg)), sort_keys=True, separators=(",", ":"))
    return f"{config_name}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


class Folder:
    """A folder that is finished when its results are in it.

    Args:
      path: where it is; made if it is missing.
      notify: called with a sentence when damaged results are set aside.
    """

    def __init__(
        self, path: Path, notify: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    ):
        self.path, self._notify = files.real_folder(path), notify

    @property
    def results(self) -> Any:
        """The results, or `None` as long as the run is not finished."""
        return _unwrapped(_whole_results(self.path)) if self.done else None

    @property
    def done(self) -> bool:
        """Whether `finish` was called and its results are whole.

        Damaged results are set aside: whoever asks works on, and finds most of it done.
        """
        if not (self.path / "done").is_file():
            return False
        try:
            _whole_results(self.path)
        except UserError as e:
            self._set_aside(str(e))
            return False
        return True

    def finish(self, results: Any) -> None:
        """Stores the results, then marks the folder as finished."""
        whole = results if isinstance(results, dict) else {_ITEMS: results}
        checksum = files.write_sealed(self._results, whole)
        write_json(self.path / "done", {"time": _now(), "results": checksum})

    @property
    def _results(self) -> Path:
        return self.path / "results.json"

    def _set_aside(self, reason: str) -> None:
        if self._results.exists():
            self._notify(f"{reason} It is set aside as results.json.damaged and written again.")
            self._results.replace(self.path / "results.json.damaged")
        else:
            self._notify(
                f"{self._results} is missing, although the run was done; it is written again."
            )


class RunFolder(Folder):
    """The folder of one config, locked against other processes until `close`."""

    @classmethod
    def open(cls, workdir: Path | str, config_name: str, cfg: ConfigDict) -> "RunFolder":
        """Makes the folder of a config, or returns to it.

        Args:
          workdir: parent of all run folders.
          config_name: how the folder's name begins.
          cfg: every setting of the run.

        Raises:
          UserError: another process works in the folder, it holds a run with other settings, or it
            cannot be written.
        """
        path = Path(workdir) / folder_name(config_name, cfg)
        try:
            return cls(path, cfg)
        except OSError as e:
            reason = e.strerror or str(e)
            raise UserError(f"cannot write the run folder {path}: {reason}; set --workdir.") from e

    @staticmethod
    def report(workdir: Path | str, config_name: str, cfg: ConfigDict) -> Path | None:
        """Returns the report of a finished run; `None` if there is still something to write.

        Nothing is written, so that it also works where nothing can be.
        """
        path = Path(workdir) / folder_name(config_name, cfg)
        report = path / "report.md"
        if not (
            (path / "done").is_file() and report.is_file() and (path / "config.json").is_file()
        ):
            return None
        _check_config(path / "config.json", _to_json(cfg))
        try:
            _whole_results(path)
        except UserError:
            return None
        return report

    def __init__(self, path: Path, cfg: ConfigDict):
        super().__init__(path)
        self._lock = _lock(path / "lock")
        try:
            files.refuse_symlinks(path)
            files.sweep(path)
            _keep_config(path / "config.json", _to_json(cfg))
            _keep_versions(path / "versions.json")
        except BaseException:
            self.close()
            raise

    def seed(self, seed: int) -> Folder:
        """The subfolder of one seed."""
        return Folder(self.path / f"seed_{seed}")

    def close(self) -> None:
        """Lets go of the lock."""
        self._lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def check_writable(workdir: Path | str) -> None:
    """Raises `UserError` unless run folders can be made in a work folder; makes none."""
    place = Path(workdir).absolute()
    try:
        str(place).encode()
    except UnicodeEncodeError as e:
        raise UserError(
            f"cannot make run folders in {place}: this locale cannot spell that path; set PYTHONUTF8=1."
        ) from e
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(
            f"cannot make run folders in {workdir}: {place} is no folder; set --workdir."
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"cannot make run folders in {workdir}: {place} cannot be written; set --workdir."
        )


def versions() -> dict[str, Any]:
    """Software, hardware and source revision of this process."""
    import jax

    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "devices": sorted({d.device_kind for d in jax.devices()}),
        "device_count": jax.device_count(),
        "git": _git(),
    }


def _lock(path: Path) -> filelock.BaseFileLock:
    """Takes a lock that the operating system drops with its holder, however that ends."""
    holder = path.with_name("holder")
    for each in (path, holder):
        if each.is_symlink() or (each.exists() and not each.is_file()):
            raise UserError(f"{each} is in the way: a plain file is needed there; move it away.")
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{path.parent} is in use by {_held_by(holder)}; wait until it ends, or set another --workdir."
        ) from None
    files.write_text(holder, f"process {os.getpid()} on {socket.gethostname()}\n")
    return lock


def _held_by(holder: Path) -> str:
    """Who has the lock, in words."""
    try:
        return (
            holder.read_text(encoding="utf-8", errors="replace").strip()[:200] or "another process"
        )
    except OSError:
        return "another process"


def _keep_config(path: Path, settings: dict[str, Any]) -> None:
    """Writes the config, or refuses it if the folder was made with another."""
    if not path.exists() or _check_config(path, settings) != settings:
        write_json(path, settings)


def _check_config(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the stored config if it has these settings."""
    stored = read_json(path, dict)
    before, after = _flat({**DEFAULTS, **stored}), _flat(settings)
    differ = sorted(
        key
        for key in before.keys() | after.keys()
        if key.split(".")[0] not in _DESCRIPTIVE and before.get(key) != after.get(key)
    )
    if differ:
        raise UserError(
            f"{path.parent} holds a run with other settings: "
            + ", ".join(f"{k} is {before.get(k)!r}, asked {after.get(k)!r}" for k in differ)
            + "; set another --workdir."
        )
    return stored


def _keep_versions(path: Path) -> None:
    """Adds this start to the list, unless everything is as at the last."""
    starts = read_starts(path)
    current = versions()
    if not starts or {**starts[-1], "time": None} != {**current, "time": None}:
        write_json(path, [files.seal(start) for start in [*starts, {"time": _now(), **current}]])


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Returns what `versions.json` knows of each start of a run, the checksums left out.

    Raises:
      UserError: it is damaged.
    """
    starts = read_json(path, list) if path.exists() else []
    return [files.unsealed(start, path) for start in starts]


def _whole_results(folder: Path) -> dict[str, Any]:
    """Returns what `finish` was given, if the results are those that `done` speaks of.

    Raises:
      UserError: they are damaged.
    """
    try:
        checksum = read_json(folder / "done", dict).get("results")
    except UserError:
        checksum = None  # that it is there says enough
    path = folder / "results.json"
    if checksum is None and isinstance(stored := read_json(path), list):
        return {_ITEMS: stored}  # as it was before there were checksums
    return files.read_sealed(path, checksum)


def _unwrapped(results: dict[str, Any]) -> Any:
    """A list as it was before `finish` put it into an object."""
    return results[_ITEMS] if results.keys() == {_ITEMS} else results


def _settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    defaults = _to_json(DEFAULTS)
    return {
        k: v
        for k, v in fields.items()
        if k not in _DESCRIPTIVE and (k not in defaults or v != defaults[k])
    }


def _to_json(value: Any) -> Any:
    """The plain JSON of a config: tuples become lists, names strings."""
    return files.strict(value)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: list(tree) if isinstance(tree, tuple) else tree}
    return {
        path: leaf
        for key, value in tree.items()
        for path, leaf in _flat(value, f"{prefix}.{key}" if prefix else key).items()
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor()


def _git() -> dict[str, Any] | None:
    """Revision of these sources and whether they were edited since; `None` outside git."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "revision": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "-uno")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
