"""What a run is told beside its config, and how it is asked to stop."""

import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Options", "Stopper"]


class Stopper:
    """Turns the first SIGTERM or SIGINT into a request; the second ends the process at once.

    Whoever works polls `requested`, saves and returns; the process then exits with 143 or 130.
    """

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    def __enter__(self) -> "Stopper":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        self.signal = number
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: saving, then stopping; once more stops at once.\n".encode())


class Options(NamedTuple):
    """What a binary is told beside its config."""

    config_name: str
    workdir: Path
    dry_run: bool
    stopper: Stopper
