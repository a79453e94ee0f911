"""Run folders: one per setting, with what is needed to know later how its numbers came about.

    <workdir>/<config name>-<8 hex digits>/
      config.json     the study and every field, defaults included
      versions.json   software, hardware and git revision of each start, where they changed
      processes.json  command line and seconds of each process that worked here
      results.json    once `finish` was called, with a checksum; done says when
      lock            held while a process works here; holder says which
      seed_<n>/       the same per seed: metrics, checkpoints, results.json, done

No file of the user's is ever deleted, nothing is written through a symlink, and no setting's folder ever
serves another.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.config import UserError
from experiments.runs import files
from experiments.runs.config_file import (
    as_json,
    check_config,
    naming_fields,
    record_config,
    settings_of,
    stored_study,
)
from experiments.runs.files import read_json, write_json
from experiments.runs.lock import acquire_lock
from experiments.runs.processes import Processes
from experiments.runs.starts import current_time, read_starts, record_start
from experiments.runs.taken_seeds import take_seeds

__all__ = [
    "RESERVED",
    "Folder",
    "RunFolder",
    "check_writable",
    "done_checksum",
    "folder_name",
    "run_path",
]

# Names without a dot that a run folder uses itself.
RESERVED = ("done", "lock", "holder", "criteria", "pretraining")
_ITEMS_KEY = "items"  # a list of results, in the object that carries the checksum


def folder_name(config_name: str, cfg: ConfigDict, study: str | None = None) -> str:
    """Returns the config's name and the hash of its fields that are not at their defaults.

    Args:
      config_name: how the name begins.
      cfg: every setting of the run.
      study: of the run; it is hashed where the config was written for another. `None`: that one.

    >>> from experiments.config import config
    >>> folder_name("lenet", config()), folder_name("lenet", config(steps=500))
    ('lenet-44136fa3', 'lenet-cc2fd588')
    >>> folder_name("lenet", config(), "train"), folder_name("lenet", config(), "lottery")
    ('lenet-44136fa3', 'lenet-abe57fc9')
    """
    settings = as_json(cfg) if study is None else settings_of(cfg, study)
    canonical_json = json.dumps(naming_fields(settings), sort_keys=True, separators=(",", ":"))
    return f"{config_name}-{hashlib.sha256(canonical_json.encode()).hexdigest()[:8]}"


def run_path(workdir: Path | str, config_name: str, cfg: ConfigDict, study: str) -> Path:
    """Returns where the run of a study on a config is, or will be.

    Args:
      workdir: parent of all run folders.
      config_name: how the folder's name begins.
      cfg: every setting of the run.
      study: of the run.
    """
    path = Path(workdir) / folder_name(config_name, cfg, study)
    older_path = Path(workdir) / folder_name(config_name, cfg)  # from before studies named folders
    if not path.exists() and (older_path / "config.json").is_file():
        return older_path if stored_study(older_path) == study else path
    return path


class Folder:
    """A folder that is finished when its results are in it.

    Args:
      path: where it is; made if it is missing.
      notify: called with a sentence when damaged results are set aside.
    """

    def __init__(
        self, path: Path, notify: Callable[[str], None] = lambda text: print(text, file=sys.stderr)
    ):
        self.path = files.real_folder(path)
        self._notify = notify

    @property
    def results(self) -> Any:
        """Returns the results, or `None` as long as the run is not finished."""
        return _unwrap_items(_read_results(self.path)) if self.done else None

    @property
    def done(self) -> bool:
        """Boolean: `finish` was called and the results it stored are undamaged.

        Damaged results are set aside, so that they are computed again from what else is in the folder.
        """
        if not (self.path / "done").is_file():
            return False
        try:
            _read_results(self.path)
        except UserError as error:
            self._set_aside(str(error))
            return False
        return True

    def finish(self, results: Any) -> None:
        """Stores the results, then marks the folder as finished."""
        contents = results if isinstance(results, dict) else {_ITEMS_KEY: results}
        checksum = files.write_sealed(self._results_path, contents)
        write_json(self.path / "done", {"time": current_time(), "results": checksum})

    @property
    def _results_path(self) -> Path:
        return self.path / "results.json"

    def _set_aside(self, reason: str) -> None:
        if self._results_path.exists():
            self._notify(f"{reason} It is set aside as results.json.damaged and written again.")
            self._results_path.replace(self.path / "results.json.damaged")
        else:
            self._notify(
                f"{self._results_path} is missing, although the run was done; it is written again."
            )


class RunFolder(Folder):
    """The folder of one study on one config, locked against other processes until `close`."""

    @classmethod
    def open(
        cls,
        workdir: Path | str,
        config_name: str,
        cfg: ConfigDict,
        study: str,
        seeds_from: Sequence[Path] = (),
    ) -> "RunFolder":
        """Makes the folder of a study on a config, or returns to it.

        Args:
          workdir: parent of all run folders.
          config_name: how the folder's name begins.
          cfg: every setting of the run.
          study: of the run, by its name.
          seeds_from: run folders of the same study and config, but for its seeds, whose trainings are taken.

        Raises:
          UserError: another process works in the folder, it holds a run of another study or with other
            settings, or it cannot be written; or what it is to take does not belong to it.
        """
        path = run_path(workdir, config_name, cfg, study)
        try:
            return cls(path, cfg, study, seeds_from)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"cannot write the run folder {path}: {reason}; set --workdir."
            ) from error

    @staticmethod
    def report(workdir: Path | str, config_name: str, cfg: ConfigDict, study: str) -> Path | None:
        """Returns the report of a finished run; `None` if there is still something to write.

        That is so if `config.paper` is another now, of which the report shows the claims.

        Nothing is written, so that it also works where nothing can be.
        """
        path = run_path(workdir, config_name, cfg, study)
        report = path / "report.md"
        if not (
            (path / "done").is_file() and report.is_file() and (path / "config.json").is_file()
        ):
            return None
        settings = settings_of(cfg, study)
        if check_config(path / "config.json", settings).get("paper", {}) != settings["paper"]:
            return None
        try:
            _read_results(path)
        except UserError:
            return None
        return report

    def __init__(self, path: Path, cfg: ConfigDict, study: str, seeds_from: Sequence[Path] = ()):
        super().__init__(path)
        self._lock = acquire_lock(path / "lock")
        try:
            files.refuse_symlinks(path)
            files.sweep(path)
            settings = settings_of(cfg, study)
            record_config(path / "config.json", settings)
            if seeds_from and not self.done:
                take_seeds(path, settings, seeds_from, self._notify)
            record_start(path / "versions.json")
            self._processes = Processes(path / "processes.json")
        except BaseException:
            self._lock.release()
            raise

    def finish(self, results: dict[str, Any]) -> None:
        """Stores the results with what they took and how they were made, then marks the folder as finished.

        Args:
          results: of the study; `cost` may hold more that the study has counted.
        """
        provenance = {
            "commands": self._processes.commands,
            "starts": read_starts(self.path / "versions.json"),
        }
        cost = {**results.get("cost", {}), **self._processes.total()}
        super().finish({**results, "cost": cost, "provenance": provenance})

    def seed(self, seed: int) -> Folder:
        """Returns the subfolder of one seed."""
        return Folder(self.path / f"seed_{seed}")

    def close(self) -> None:
        """Writes what this process took, and releases the lock."""
        try:
            self._processes.close()
        finally:
            self._lock.release()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def check_writable(workdir: Path | str) -> None:
    """Raises `UserError` unless run folders can be made in a work folder; makes none."""
    existing_folder = Path(workdir).absolute()
    try:
        str(existing_folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"cannot make run folders in {existing_folder}: this locale cannot spell that path; "
            "set PYTHONUTF8=1."
        ) from error
    while not os.path.lexists(existing_folder) and existing_folder != existing_folder.parent:
        existing_folder = existing_folder.parent
    if not existing_folder.is_dir():
        raise UserError(
            f"cannot make run folders in {workdir}: {existing_folder} is no folder; set --workdir."
        )
    if not os.access(existing_folder, os.W_OK | os.X_OK):
        raise UserError(
            f"cannot make run folders in {workdir}: {existing_folder} cannot be written; set --workdir."
        )


def done_checksum(folder: Path) -> str | None:
    """Returns the checksum of a finished folder's results; `None` if it is not known from elsewhere."""
    try:
        return read_json(folder / "done", dict).get("results")
    except UserError:
        return None  # a damaged `done` still says that the run is finished


def _read_results(folder: Path) -> dict[str, Any]:
    """Returns the stored results of a folder, if they have the checksum that `done` holds.

    Raises:
      UserError: they are damaged.
    """
    checksum = done_checksum(folder)
    path = folder / "results.json"
    if checksum is None and isinstance(stored := read_json(path), list):
        return {_ITEMS_KEY: stored}  # as it was before there were checksums
    return files.read_sealed(path, checksum)


def _unwrap_items(results: dict[str, Any]) -> Any:
    """Returns the results in the form that `finish` was given: a list is taken out of its object."""
    return results[_ITEMS_KEY] if results.keys() == {_ITEMS_KEY} else results
