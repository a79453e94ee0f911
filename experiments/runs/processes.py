"""Processes that have worked on a run: their command lines and the seconds that each took.

A run that is killed and resumed has several. `processes.json` holds a sealed row for each, and the row of the
one at work is written again every half minute, so that a kill loses no more than that of the account.
"""

import contextlib
import os
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import Any

from experiments.config import UserError
from experiments.runs import files

__all__ = ["Processes", "command_line", "read_rows"]

_SECONDS_BETWEEN_ROWS = 30


class Processes:
    """The account of a run folder, to which this process adds its own row until `close`.

    Args:
      path: of `processes.json`.

    Raises:
      UserError: the file is damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        self._earlier_rows = read_rows(path)
        self._command = command_line(sys.orig_argv, Path.cwd())
        self._start_time = time.time()
        self._cpu_seconds_before = _cpu_seconds()
        self._write_lock = threading.Lock()
        self._closing = threading.Event()
        self._write()
        self._writer = threading.Thread(target=self._write_regularly, daemon=True)
        self._writer.start()

    @property
    def commands(self) -> list[str]:
        """Returns the different command lines, in the order in which they were first given."""
        return list(dict.fromkeys(row["command"] for row in self._rows()))

    def total(self) -> dict[str, float]:
        """Returns the number of processes, and the seconds of all: on the wall and on all cores.

        Those of a process count from when it opened the folder, with its children.
        """
        rows = self._rows()
        return {
            "processes": len(rows),
            "wall_seconds": sum(row["wall_seconds"] for row in rows),
            "cpu_seconds": sum(row["cpu_seconds"] for row in rows),
        }

    def close(self) -> None:
        """Writes the row of this process for the last time, where that is possible."""
        self._closing.set()
        self._writer.join()
        self._write_if_possible()

    def _rows(self) -> list[dict[str, Any]]:
        own_row = {
            "command": self._command,
            "wall_seconds": time.time() - self._start_time,
            "cpu_seconds": _cpu_seconds() - self._cpu_seconds_before,
        }
        return [*self._earlier_rows, own_row]

    def _write(self) -> None:
        with self._write_lock:
            files.write_json(self._path, [files.seal(row) for row in self._rows()])

    def _write_regularly(self) -> None:
        while not self._closing.wait(_SECONDS_BETWEEN_ROWS):
            self._write_if_possible()

    def _write_if_possible(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: the run itself will say so
            self._write()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of an account, without checksums; none if there is no file.

    Args:
      path: of `processes.json`.

    Raises:
      UserError: it is damaged.
    """
    rows = files.read_json(path, list) if path.exists() else []
    return [_checked_row(files.unsealed(row, path), path) for row in rows]


def _checked_row(row: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns a row of the account, if it has what `Processes.total` adds up."""
    seconds = [row.get(name) for name in ("wall_seconds", "cpu_seconds")]
    if type(row.get("command")) is not str or not all(
        type(number) in (int, float) for number in seconds
    ):
        raise UserError(f"{path} holds a row that is none of a process; move it away.")
    return row


def command_line(arguments: list[str], current_folder: Path) -> str:
    """Returns a command line as it can be given again elsewhere, without paths of this machine.

    The interpreter is called python; files below the current folder are named from there, others by their
    name alone; the work folder, which says only where results go, is left out.

    Args:
      arguments: the interpreter and all that follows, as in `sys.orig_argv`.
      current_folder: of the process.

    >>> command_line(["/usr/bin/python3", "-m", "experiments.train", "--config=/home/a/configs/b.py",
    ...               "--workdir=/tmp/c", "--config.seeds=(0, 1)"], Path("/home/a"))
    "python -m experiments.train --config=configs/b.py '--config.seeds=(0, 1)'"
    """
    kept_arguments = ["python"]
    takes_value = False
    for argument in arguments[1:]:
        if takes_value or argument.lstrip("-").startswith("workdir"):
            takes_value = not takes_value and "=" not in argument
            continue
        flag, equals, value = (
            argument.partition("=") if argument.startswith("-") else ("", "", argument)
        )
        kept_arguments.append(f"{flag}{equals}{_without_folder(value, current_folder)}")
    return shlex.join(kept_arguments)


def _without_folder(value: str, current_folder: Path) -> str:
    """Returns an absolute path from the current folder, or its last name; other values as they are."""
    path = Path(value)
    if not path.is_absolute():
        return value
    if path.is_relative_to(current_folder):
        return str(path.relative_to(current_folder))
    return path.name


def _cpu_seconds() -> float:
    """Returns the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
