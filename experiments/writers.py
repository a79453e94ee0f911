"""Metric writers: CSV and JSON lines always, TensorBoard and Weights & Biases where asked for.

A resumed run continues its files: rows after the step restored, and a last line cut short by a
kill, are dropped first, so that the file ends up as if nothing had happened.
"""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.config import UserError

__all__ = ["CsvWriter", "JsonLinesWriter", "MetricWriter", "Writers", "open_writers"]


class MetricWriter(Protocol):
    """Where metrics go."""

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds a row."""

    def flush(self) -> None:
        """Returns when all rows are on the disk."""

    def close(self) -> None:
        """Flushes and ends."""


def open_writers(
    folder: Path | str,
    names: Iterable[str] = ("csv",),
    *,
    after: int = -1,
    settings: Mapping[str, Any] | None = None,
) -> "Writers":
    """Opens `metrics.csv` and `metrics.jsonl` in a folder, and what else is asked for.

    Args:
      folder: one seed's folder.
      names: "csv", which stands for the two files and is always on, "tb", "wandb".
      after: the step restored; later rows are dropped. -1 starts anew.
      settings: the config, shown beside the curves where a writer can.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writers: list[MetricWriter] = []
    if "tb" in names:
        writers.append(_TensorBoard(folder, after))
    if "wandb" in names:
        writers.append(_WandB(folder, settings))
    writers.append(CsvWriter(folder / "metrics.csv", after=after))
    writers.append(JsonLinesWriter(folder / "metrics.jsonl", after=after))
    return Writers(writers)


class Writers:
    """Several writers as one."""

    def __init__(self, writers: Iterable[MetricWriter]):
        self._writers = tuple(writers)

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds a row: numbers, or arrays of one element."""
        plain = {name: _number(value) for name, value in scalars.items()}
        for writer in self._writers:
            writer.write(int(step), plain)

    def flush(self) -> None:
        """Returns when all rows are on the disk."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Flushes and ends."""
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _LinesWriter:
    """A text file of one row per line, each handed to the operating system as it is written."""

    def __init__(self, path: Path | str, *, after: int = -1):
        self.path = Path(path)
        self._replace(self._kept(after))

    def flush(self) -> None:
        """Returns when all rows are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and ends."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def _kept(self, after: int) -> str:
        """The text of a file up to a step."""
        text = self.path.read_text() if self.path.exists() else ""
        return self._until(text[: text.rfind("\n") + 1], after)

    def _until(self, text: str, after: int) -> str:
        raise NotImplementedError

    def _replace(self, text: str) -> None:
        """Makes the file hold this text, whole or not at all, and opens its end."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(text)
        temporary.replace(self.path)
        self._file = self.path.open("a", buffering=1)


class JsonLinesWriter(_LinesWriter):
    """One object per line; a number that is not finite becomes null, as JSON has none."""

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds a row."""
        row = {"step": step} | {name: _number(value) for name, value in scalars.items()}
        finite = {k: v if math.isfinite(v) else None for k, v in row.items()}
        self._file.write(json.dumps(finite) + "\n")

    def _until(self, text: str, after: int) -> str:
        step = lambda line: json.loads(line)["step"]
        return "".join(_while_readable(text.splitlines(keepends=True), step, after))


class CsvWriter(_LinesWriter):
    """A table with the step first; a metric that is new adds a column, empty in the rows before."""

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds a row."""
        row = {"step": step} | {name: _number(value) for name, value in scalars.items()}
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self.close()
            rows = list(csv.reader(self.path.read_text().splitlines()))[1:]
            padded = [old + [""] * (len(self._columns) - len(old)) for old in rows]
            self._replace(_csv([self._columns, *padded]))
        self._file.write(_csv([[row.get(name, "") for name in self._columns]]))

    def _until(self, text: str, after: int) -> str:
        header, *rows = list(csv.reader(text.splitlines())) or [["step"]]
        whole = [row for row in rows if len(row) == len(header)]
        kept = list(_while_readable(whole, lambda row: int(row[0]), after))
        # Columns that only later rows fill will be added again by these, in their turn.
        self._columns = [
            name for i, name in enumerate(header) if name == "step" or any(row[i] for row in kept)
        ]
        at = [header.index(name) for name in self._columns]
        return _csv([self._columns, *([row[i] for i in at] for row in kept)])


class _TensorBoard:
    def __init__(self, folder: Path, after: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as e:
            raise _missing("tb", "tensorboardX") from e
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)
        self.flush, self.close = self._writer.flush, self._writer.close

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)


class _WandB:
    def __init__(self, folder: Path, settings: Mapping[str, Any] | None):
        try:
            import wandb
        except ImportError as e:
            raise _missing("wandb", "wandb") from e
        name = "-".join(folder.absolute().parts[-2:])
        self._run = wandb.init(
            project="jaxprune",
            id=name,
            resume="allow",
            dir=str(folder),
            config=dict(settings or {}),
        )
        self.close = self._run.finish

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._run.log(dict(scalars), step=step)

    def flush(self) -> None:
        pass


def _while_readable(rows: Iterable[Any], step: Callable[[Any], int], after: int) -> Iterable[Any]:
    """The rows of steps up to `after`, as far as the file makes sense."""
    for row in rows:
        try:
            keep = step(row) <= after
        except (ValueError, KeyError, TypeError, IndexError):
            return
        if keep:
            yield row


def _number(value: Any) -> float | int:
    """A Python number; `float32` by its shortest decimals, 0.1 and not 0.10000000149011612."""
    if isinstance(value, float | int):
        return value
    array = np.asarray(value).reshape(())
    return array.item() if array.dtype.kind in "biu" else float(str(array[()]))


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _missing(extra: str, package: str) -> UserError:
    return UserError(
        f"config.writers asks for {extra!r}, but {package} is not installed: "
        f"pip install 'jaxprune[{extra}]'."
    )
