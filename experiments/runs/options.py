"""Options of a run beside its config, and the request to stop."""

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
        self._previous_handlers: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Boolean: a signal has asked to stop."""
        return self.signal is not None

    def __enter__(self) -> "Stopper":
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            previous_handler = signal.signal(signal_number, self._record_signal)
            self._previous_handlers[signal_number] = previous_handler
        return self

    def __exit__(self, *_) -> None:
        for signal_number, handler in self._previous_handlers.items():
            signal.signal(signal_number, handler)

    def _record_signal(self, signal_number: int, _) -> None:
        self.signal = signal_number
        for handled_number in self._previous_handlers:
            signal.signal(handled_number, signal.SIG_DFL)
        signal_name = signal.Signals(signal_number).name
        os.write(2, f"\n{signal_name}: saving, then stopping; once more stops at once.\n".encode())


class Options(NamedTuple):
    """Options of a binary beside its config.

    Attributes:
      config_name: name of the config's file, which begins the name of the run folder.
      workdir: parent of all run folders.
      dry_run: only say what would be done.
      stopper: asks the run to save and stop.
      seeds_from: run folders of the same config with other seeds, whose trainings are taken.
    """

    config_name: str
    workdir: Path
    dry_run: bool
    stopper: Stopper
    seeds_from: tuple[Path, ...] = ()
