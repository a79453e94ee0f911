"""Progress: a bar with the time left where someone watches, now and then a plain line elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ["Progress"]


class Progress:
    """Shows how far a run is, how long it will take, and its current metrics.

    Args:
      total: steps in all.
      description: what is going on, `seed 0 · level 3/12 · ticket`.
      start: steps done before, in a resumed run; the time left is estimated from later ones.
      stream: where to; a bar if it is a terminal.
      every: seconds between two plain lines.
    """

    def __init__(
        self,
        total: int,
        description: str = "",
        *,
        start: int = 0,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._description, self._first, self._clock = total, description, start, clock
        self._stream = sys.stderr if stream is None else stream
        self._step, self._metrics = start, ""
        self._begun = self._shown = clock()
        self._printed: int | None = None
        self._bar = _bar(self._stream, total) if self._stream.isatty() else None
        self._pause = 0.1 if self._bar else every
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(description, total=total, completed=start, metrics="")

    def update(self, step: int, description: str | None = None, **metrics: Any) -> None:
        """Tells how far the run is; cheap enough for every step.

        Args:
          step: steps done.
          description: what is going on, if it has changed.
          **metrics: numbers to show; the last ones stay until others come.
        """
        self._step = step
        if description is not None:
            self._description = description
        if metrics:
            self._metrics = "  ".join(f"{name} {_short(value)}" for name, value in metrics.items())
        now = self._clock()
        if now - self._shown >= self._pause:
            self._shown = now
            self._show()

    def close(self) -> None:
        """Shows the last state."""
        if self._bar:
            self._show()
            self._bar.stop()
        elif self._printed != self._step:
            self._show()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _show(self) -> None:
        if self._bar:
            self._bar.update(
                self._task,
                completed=self._step,
                description=self._description,
                metrics=self._metrics,
            )
            return
        self._printed = self._step
        elapsed, done = self._clock() - self._begun, self._step - self._first
        left = f", {_time(elapsed / done * (self._total - self._step))} left" if done > 0 else ""
        share = f"{100 * self._step / max(self._total, 1):3.0f} %"
        parts = [
            self._description,
            f"{share}  {self._step}/{self._total}  {_time(elapsed)}{left}",
            self._metrics,
        ]
        print("  ".join(part for part in parts if part), file=self._stream, flush=True)


def _bar(stream: TextIO, total: int) -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(elapsed_when_finished=False),
        progress.TextColumn("{task.fields[metrics]}"),
        console=Console(file=stream),
    )


def _short(value: Any) -> str:
    return str(value) if isinstance(value, int | str) else f"{float(value):.4g}"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
