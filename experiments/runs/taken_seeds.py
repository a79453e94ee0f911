"""Seeds that were trained in other run folders of the same config: several machines share a run.

The folders of those seeds are copied as they are, so that finished trainings count and others go on. With
them goes the account of what they took and on what they ran.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.config import UserError
from experiments.runs import files
from experiments.runs.config_file import differences
from experiments.runs.files import read_json, write_json
from experiments.runs.lock import acquire_lock

__all__ = ["take_seeds"]

_SEED_FOLDER = re.compile(r"seed_(\d+)")
_ACCOUNTS = ("versions.json", "processes.json")


def take_seeds(
    path: Path, settings: dict[str, Any], sources: Sequence[Path], notify: Callable[[str], None]
) -> None:
    """Copies into a run folder what others of its config have trained, for the seeds that it asks for.

    What the folder has already, it keeps: the same call again does nothing.

    Args:
      path: of the run folder, which this process has locked.
      settings: its config, as JSON.
      sources: other run folders, of configs that differ from it in `seeds` alone.
      notify: called with a sentence for each source.

    Raises:
      UserError: a source is no run folder, is in use, or has other settings; two have the same seed, or one
        has none that is asked for; or seeds beside those of the config were trained, on which the settings
        of all others depend (`config.compare.trials`).
    """
    taken: dict[int, Path] = {}
    with contextlib.ExitStack() as locks:
        for source in sources:
            locks.enter_context(_opened(source, path))
            for seed in _seeds_to_take(source, settings):
                if seed in taken:
                    raise UserError(
                        f"seed {seed} is in {taken[seed]} and in {source}; leave one of them out."
                    )
                taken[seed] = source
        for source in sources:
            seeds = [seed for seed, its_source in taken.items() if its_source == source]
            _append_accounts(source, path)
            if copied := _copied_folders(source, path, seeds):
                notify(f"{copied} folders of seeds {seeds} are copied from {source}.")


@contextlib.contextmanager
def _opened(source: Path, path: Path) -> Iterator[None]:
    """Holds the lock of a folder that seeds are taken from."""
    if not (source / "config.json").is_file():
        raise UserError(f"--seeds_from={source}: no run folder; it has no config.json.")
    if source.resolve() == path.resolve():
        raise UserError(f"--seeds_from={source} is the folder of this run itself; leave it out.")
    files.refuse_symlinks(source)
    try:
        lock = acquire_lock(source / "lock")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"--seeds_from={source} cannot be locked: {reason}; copy it to where it can be written."
        ) from error
    with lock:
        yield


def _seeds_to_take(source: Path, settings: dict[str, Any]) -> list[int]:
    stored = read_json(source / "config.json", dict)
    seeds = stored.get("seeds", [])
    if differing := differences({**stored, "seeds": settings["seeds"]}, settings):
        raise UserError(
            f"--seeds_from={source} holds a run with other settings, not with other seeds alone: "
            f"{differing}."
        )
    if others := sorted({_seed_of(folder) for folder in _seed_folders(source)} - set(seeds)):
        raise UserError(
            f"--seeds_from={source}: seed {others[0]} chose settings for the others by trials; a run with "
            "config.compare.trials has all its seeds in one folder."
        )
    wanted = [seed for seed in seeds if seed in settings["seeds"]]
    if not wanted:
        raise UserError(
            f"--seeds_from={source} has seeds {seeds}, none of config.seeds={settings['seeds']}."
        )
    return wanted


def _seed_folders(run_folder: Path) -> Iterator[Path]:
    """The folders of seeds in a run folder, whole: none within another."""
    for parent, names, _ in os.walk(run_folder):
        for name in sorted(names):
            if _SEED_FOLDER.fullmatch(name):
                yield Path(parent, name)
        names[:] = [name for name in names if not _SEED_FOLDER.fullmatch(name)]


def _seed_of(folder: Path) -> int:
    return int(folder.name.removeprefix("seed_"))


def _copied_folders(source: Path, path: Path, seeds: Sequence[int]) -> int:
    """Copies the folders of some seeds that are not there yet; returns how many were copied."""
    copied = 0
    for folder in _seed_folders(source):
        target = path / folder.relative_to(source)
        if _seed_of(folder) not in seeds or target.exists():
            continue
        files.real_folder(target.parent)
        unfinished_copy = target.with_name(f".{target.name}.copy")
        shutil.rmtree(unfinished_copy, ignore_errors=True)  # of a process that was killed
        shutil.copytree(folder, unfinished_copy, symlinks=True)
        unfinished_copy.replace(target)
        copied += 1
    return copied


def _append_accounts(source: Path, path: Path) -> None:
    """Adds the rows of a source that are not there yet, so that none is written twice."""
    for name in _ACCOUNTS:
        rows = read_json(path / name, list) if (path / name).exists() else []
        more = read_json(source / name, list) if (source / name).exists() else []
        if new := [row for row in more if row not in rows]:
            write_json(path / name, [*rows, *new])
