"""Run folders: one per setting, with what is needed to know later how its numbers came about.

    <workdir>/<config name>-<8 hex digits>/
      config.json     every field, defaults included
      versions.json   software, hardware and git revision of each start, where they changed
      results.json    once `finish` was called; done says when
      lock            held while a process works here
      seed_<n>/       the same per seed: metrics, checkpoints, results.json, done

No file of the user's is ever deleted, and no setting's folder ever serves another.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.config import DEFAULTS, UserError

__all__ = ["Folder", "RunFolder", "folder_name", "read_json", "versions", "write_json"]

_DESCRIPTIVE = ("paper",)  # says what a run is compared with and changes nothing in it
_PACKAGES = ("jaxprune", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write_json(path: Path | str, obj: Any) -> None:
    """Writes JSON so that whoever reads the path finds the old file or the new one, whole."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(obj, indent=1, default=_plain) + "\n"
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path | str) -> Any:
    """Reads JSON, and names the file where it is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as e:
        raise UserError(f"{path} is not JSON ({e}); move it away to start again.") from e


def folder_name(config_name: str, cfg: ConfigDict) -> str:
    """The config's name and the hash of its fields that are not at their defaults.

    >>> from experiments.config import config
    >>> folder_name("lenet", config()), folder_name("lenet", config(steps=500))
    ('lenet-44136fa3', 'lenet-cc2fd588')
    """
    canonical = json.dumps(_settings(_to_json(cfg)), sort_keys=True, separators=(",", ":"))
    return f"{config_name}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


class Folder:
    """A folder that is finished when its results are in it."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    @property
    def results(self) -> Any:
        """The results, or `None` as long as the run is not finished."""
        return read_json(self.path / "results.json") if self.done else None

    @property
    def done(self) -> bool:
        """Whether `finish` was called."""
        return (self.path / "done").exists()

    def finish(self, results: Any) -> None:
        """Stores the results, then marks the folder as finished."""
        write_json(self.path / "results.json", results)
        write_json(self.path / "done", {"time": _now()})


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

    def __init__(self, path: Path, cfg: ConfigDict):
        super().__init__(path)
        self._lock = _lock(path / "lock")
        try:
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
        os.close(self._lock)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_) -> None:
        self.close()


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


def _lock(path: Path) -> int:
    """Takes a lock that the operating system drops with its holder, however that ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise UserError(
            f"{path.parent} is in use by {holder}; wait until it ends, or set another --workdir."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


def _keep_config(path: Path, settings: dict[str, Any]) -> None:
    """Writes the config, or refuses it if the folder was made with another."""
    if path.exists():
        before, after = _flat({**DEFAULTS, **read_json(path)}), _flat(settings)
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
    if not path.exists() or read_json(path) != settings:
        write_json(path, settings)


def _keep_versions(path: Path) -> None:
    """Adds this start to the list, unless everything is as at the last."""
    starts = read_json(path) if path.exists() else []
    current = versions()
    if not starts or {**starts[-1], "time": None} != {**current, "time": None}:
        write_json(path, [*starts, {"time": _now(), **current}])


def _settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    defaults = _to_json(DEFAULTS)
    return {
        k: v
        for k, v in fields.items()
        if k not in _DESCRIPTIVE and (k not in defaults or v != defaults[k])
    }


def _to_json(value: Any) -> Any:
    """The plain JSON of a config: tuples become lists, names strings."""
    plain = value.to_dict() if isinstance(value, ConfigDict) else value
    return json.loads(json.dumps(plain, default=_plain))


def _plain(value: Any) -> Any:
    """Parts within tuples, arrays and NumPy's scalars as JSON knows them."""
    if isinstance(value, ConfigDict):
        return value.to_dict()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in JSON: {value!r}")


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
        lines = Path("/proc/cpuinfo").read_text().splitlines()
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
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {
            "revision": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "-uno")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
