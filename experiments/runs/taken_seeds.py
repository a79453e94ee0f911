"""Seeds that were trained in other run folders of the same study and config: several machines share a run.

The folders of a seed are copied whole, so that finished trainings count and others go on. With them goes the
account of what the other folder took and on what it ran. `taken.json` says which seeds came from where; a
seed that has begun here is never mixed with one from elsewhere.
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
from experiments.runs.config_file import check_study, differences
from experiments.runs.files import read_json, write_json
from experiments.runs.lock import acquire_lock
from experiments.runs.processes import read_rows
from experiments.runs.starts import read_starts

__all__ = ["SEED_FOLDER", "seeds_by_source", "seeds_of", "take_seeds"]

SEED_FOLDER = re.compile(r"seed_(\d+)")
_RECORD = "taken.json"  # seed -> folder that it is taken from


def take_seeds(
    path: Path, settings: dict[str, Any], sources: Sequence[Path], notify: Callable[[str], None]
) -> None:
    """Copies into a run folder what others of its config have trained, for the seeds that it asks for.

    The same call again does nothing; after a kill it copies what is missing.

    Args:
      path: of the run folder, which this process has locked.
      settings: its study and config, as JSON.
      sources: other run folders of the study, of configs that differ from it in `seeds` alone.
      notify: called with a sentence for what was copied, and for what was not.

    Raises:
      UserError: as `seeds_by_source`; a source is in use or damaged, or holds what cannot be copied.
    """
    planned = seeds_by_source(sources, settings)
    record_path = path / _RECORD
    record = read_json(record_path, dict) if record_path.exists() else {}
    with contextlib.ExitStack() as locks:
        rows_of_files = {}
        for source in planned:
            if source == path.resolve():
                raise UserError(
                    f"--seeds_from={source} is the folder of this run itself; leave it out."
                )
            locks.enter_context(_locked(source))
            read_rows(source / "processes.json")  # refuses damaged rows, before anything is written
            read_starts(source / "versions.json")
            rows_of_files[source] = {
                name: read_json(source / name, list)
                for name in ("versions.json", "processes.json")
                if (source / name).exists()
            }
            _check_copyable(source)
        for source, seeds in planned.items():
            missing = [
                seed
                for seed in seeds
                if record.get(str(seed)) == str(source) or not _begun_seeds(path, [seed])
            ]
            for seed in sorted({*seeds} - {*missing}):
                notify(
                    f"seed {seed} has begun in {path} already, and is not taken from {source}; to take it, "
                    "set another --workdir."
                )
            if not missing:
                continue
            write_json(
                record_path, record := record | dict.fromkeys(map(str, missing), str(source))
            )
            if copied := [seed for seed in missing if _copy_seed(source, path, seed)]:
                for name, rows in rows_of_files[source].items():
                    _append_rows(path / name, rows)
                notify(f"taken from {source}: {_named(copied)}.")


def seeds_by_source(sources: Sequence[Path], settings: dict[str, Any]) -> dict[Path, list[int]]:
    """Returns which seeds are to be taken from each run folder, by its resolved path; writes nothing.

    Args:
      sources: run folders.
      settings: the study and the config of the run, as JSON.

    Raises:
      UserError: a source is no run folder, is of another study or has other settings; two have trained the
        same seed, or one has none that is asked for; or settings are chosen by trials, which each folder
        made by itself.
    """
    planned: dict[Path, list[int]] = {}
    for source in dict.fromkeys(path.resolve() for path in sources):
        own_seeds = seeds_of(source)
        stored = read_json(source / "config.json", dict)
        check_study(source, settings, "leave it out of --seeds_from")
        if differing := differences({**stored, "seeds": settings["seeds"]}, settings):
            raise UserError(
                f"--seeds_from={source} holds a run with other settings, not with other seeds alone: "
                f"{differing}."
            )
        trials = (settings.get("compare") or {}).get("trials") or {}
        if any(len(tried) > 1 for tried in trials.values()):
            raise UserError(
                f"--seeds_from={source}: config.compare.trials chooses settings for all seeds, so that these "
                "cannot be trained apart; run them in one folder."
            )
        asked = [seed for seed in own_seeds if seed in settings["seeds"]]
        begun = _begun_seeds(source, asked)
        if not begun:
            raise UserError(
                f"--seeds_from={source} has trained nothing of config.seeds={settings['seeds']}; its own "
                f"seeds are {own_seeds}."
            )
        for earlier, seeds in planned.items():
            if both := sorted({*seeds} & {*begun}):
                raise UserError(
                    f"seed {both[0]} is in {earlier} and in {source}; leave one of them out."
                )
        planned[source] = begun
    return planned


def seeds_of(source: Path) -> list[int]:
    """Returns the seeds of the config of a run folder.

    Raises:
      UserError: it is none, or its config is damaged.
    """
    if not (source / "config.json").is_file():
        raise UserError(f"--seeds_from={source}: no run folder; it has no config.json.")
    seeds = read_json(source / "config.json", dict).get("seeds")
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{source / 'config.json'}: seeds={seeds!r} are no list of numbers.")
    return seeds


@contextlib.contextmanager
def _locked(source: Path) -> Iterator[None]:
    try:
        lock = acquire_lock(source / "lock", remedy="leave it out of --seeds_from until then")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"--seeds_from={source} cannot be locked: {reason}; copy it to where it can be written."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _seed_folders(run_folder: Path) -> Iterator[tuple[int, Path]]:
    """The folders of seeds in a run folder, with their seed; none within another."""
    for parent, names, _ in os.walk(run_folder):
        for name in sorted(names):
            if match := SEED_FOLDER.fullmatch(name):
                yield int(match[1]), Path(parent, name)
        names[:] = [name for name in names if not SEED_FOLDER.fullmatch(name)]


def _begun_seeds(run_folder: Path, seeds: Sequence[int]) -> list[int]:
    """Returns those seeds of which a run folder holds any file."""
    begun = {seed for seed, folder in _seed_folders(run_folder) if _holds_files(folder)}
    return [seed for seed in seeds if seed in begun]


def _holds_files(folder: Path) -> bool:
    return any(names for _, _, names in os.walk(folder))


def _check_copyable(source: Path) -> None:
    """Refuses links, through which a copy would write into the source, and what is no file."""
    for entry in source.rglob("*"):
        if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
            raise UserError(
                f"--seeds_from: {entry} is neither a folder nor a plain file, and cannot be copied; move "
                "it away."
            )


def _copy_seed(source: Path, path: Path, seed: int) -> bool:
    """Copies the folders of a seed that are not there yet; returns whether there were any."""
    copied = False
    for folder_seed, folder in _seed_folders(source):
        target = path / folder.relative_to(source)
        if folder_seed == seed and not _holds_files(target):
            files.real_folder(target.parent)
            _copy_whole(folder, target)
            copied = True
    return copied


def _copy_whole(folder: Path, target: Path) -> None:
    """Copies a folder to where none is, or an empty one, so that it is there whole or not at all."""
    from jaxprune.storage.durable import sync_folder, sync_tree  # with JAX, as in `files`

    unfinished = target.with_name(f".{target.name}.copy")
    shutil.rmtree(target, ignore_errors=True)  # holds no files
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    entry = folder
    try:
        unfinished.mkdir()
        for entry in sorted(folder.rglob("*")):
            copy = unfinished / entry.relative_to(folder)
            if entry.is_dir():
                copy.mkdir()
            else:
                shutil.copyfile(entry, copy)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        reason = error.strerror or str(error)
        raise UserError(f"{entry} cannot be copied to {target.parent}: {reason}.") from error
    sync_tree(unfinished)
    unfinished.replace(target)
    sync_folder(target.parent)


def _append_rows(path: Path, rows: Sequence[Any]) -> None:
    """Adds rows to a file of rows, but for those that it has."""
    before = read_json(path, list) if path.exists() else []
    if new := [row for row in rows if row not in before]:
        write_json(path, [*before, *new])


def _named(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
