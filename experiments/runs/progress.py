"""Progress: a bar with the time left where someone watches, now and then a plain line elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ["Part", "Progress"]


class Progress:
    """Shows how far a run is, how long it will take, and its current metrics.

    Args:
      total: number of steps in all.
      description: what is going on, "seed 0 · level 3/12 · ticket".
      start: steps done before, in a resumed run; the time left is estimated from later ones.
      stream: where to write, by default the standard error; a terminal gets a bar.
      every: seconds between two plain lines.
      clock: returns seconds.
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
        self._total = total
        self._description = description
        self._start_step = start
        self._clock = clock
        self._stream = sys.stderr if stream is None else stream
        self._step: float = start
        self._metrics_text = ""
        self._start_time = clock()
        self._shown_time = self._start_time
        self._printed_step: float | None = None
        self._bar = _make_bar(self._stream, total) if self._stream.isatty() else None
        self._seconds_between = 0.1 if self._bar else every
        if self._bar:
            self._bar.start()
            self._bar_task = self._bar.add_task(
                description, total=total, completed=start, metrics=""
            )

    def update(self, step: float, description: str | None = None, **metrics: Any) -> None:
        """Records how far the run is, and shows it now and then; cheap enough for every step.

        Args:
          step: steps done; a fraction where one has begun.
          description: what is going on, if it has changed.
          **metrics: numbers to show; the last ones stay until others come.
        """
        self._step = step
        if description is not None:
            self._description = description
        if metrics:
            self._metrics_text = "  ".join(
                f"{name} {_format_value(value)}" for name, value in metrics.items()
            )
        now = self._clock()
        if now - self._shown_time >= self._seconds_between:
            self._shown_time = now
            self._show()

    def part(self, index: int, size: int) -> "Part":
        """Returns the progress of one step that itself has `size` smaller ones; the time left counts them.

        Args:
          index: how many steps come before it.
          size: 0 for a step without smaller ones.
        """
        return Part(self, index, size)

    def close(self) -> None:
        """Shows the last state."""
        if self._bar:
            self._show()
            self._bar.stop()
        elif self._printed_step != self._step:
            self._show()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _show(self) -> None:
        if self._bar:
            self._bar.update(
                self._bar_task,
                completed=self._step,
                description=self._description,
                metrics=self._metrics_text,
            )
            return
        self._printed_step = self._step
        elapsed_seconds = self._clock() - self._start_time
        steps_done = self._step - self._start_step
        remaining_text = (
            f", {_format_duration(elapsed_seconds / steps_done * (self._total - self._step))} left"
            if steps_done > 0
            else ""
        )
        percent_text = f"{100 * self._step / max(self._total, 1):3.0f} %"
        steps_text = f"{percent_text}  {int(self._step)}/{self._total}"
        time_text = f"{_format_duration(elapsed_seconds)}{remaining_text}"
        parts = [self._description, f"{steps_text}  {time_text}", self._metrics_text]
        print("  ".join(part for part in parts if part), file=self._stream, flush=True)


class Part:
    """The progress of one step of a run that has smaller steps of its own: one training of many."""

    def __init__(self, whole: Progress, index: int, size: int):
        self._whole = whole
        self._index = index
        self._size = size

    def update(self, step: float, description: str | None = None, **metrics: Any) -> None:
        """Records how far this step is; see `Progress.update`.

        Args:
          step: smaller steps done.
          description: what is going on, if it has changed.
          **metrics: numbers to show; the last ones stay until others come.
        """
        done = step / self._size if self._size else 0
        self._whole.update(self._index + done, description, **metrics)


def _make_bar(stream: TextIO, total: int) -> Any:
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


def _format_value(value: Any) -> str:
    return str(value) if isinstance(value, int | str) else f"{float(value):.4g}"


def _format_duration(seconds: float) -> str:
    total_minutes, rest_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(total_minutes, 60)
    return f"{hours}:{minutes:02}:{rest_seconds:02}" if hours else f"{minutes}:{rest_seconds:02}"
