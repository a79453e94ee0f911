"""Metric writers: CSV and JSON lines always, TensorBoard and Weights & Biases where asked for.

A resumed run continues its files: rows after the step restored, and a last line cut short by a kill, are
dropped first, so that the files end up as if nothing had happened. What is kept is checked row by row.
"""

import csv
import hashlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.config import UserError
from experiments.runs import files, metric_rows

__all__ = ["MetricWriter", "Writers", "open_writers"]


class MetricWriter(Protocol):
    """A destination of metrics."""

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
    rows: int | None = None,
    settings: Mapping[str, Any] | None = None,
    workdir: Path | str | None = None,
    notify: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> "Writers":
    """Opens `metrics.csv` and `metrics.jsonl` in a folder, and what else is asked for.

    Args:
      folder: one seed's folder.
      names: of "csv" (the two files, which are always written), "tb" and "wandb".
      after: the step restored; later rows are dropped. -1 starts anew.
      rows: number of rows there were at that step, if that is known.
      settings: the config, shown beside the curves where a writer can.
      workdir: parent of the run folders; W&B names curves by the path below it.
      notify: called with a sentence where rows are damaged or missing.
    """
    folder = files.real_folder(Path(folder))
    writers: list[MetricWriter] = []
    if "tb" in names:
        writers.append(_TensorBoard(folder, after))
    if "wandb" in names:
        writers.append(_WandB(folder, Path(workdir or folder.parent), settings))
    restored_rows = metric_rows.restore(folder, after, rows, notify)
    writers.append(_JsonLinesFile(folder / "metrics.jsonl", restored_rows))
    writers.append(_CsvFile(folder / "metrics.csv", restored_rows))
    return Writers(writers, len(restored_rows))


class Writers:
    """Several writers as one.

    Args:
      writers: each gets every row.
      rows: number of rows that the files hold already.
    """

    def __init__(self, writers: Iterable[MetricWriter], rows: int = 0):
        self._writers = tuple(writers)
        self.rows = rows

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds a row: numbers, or arrays of one element."""
        numbers = {name: _to_number(value) for name, value in scalars.items()}
        self.rows += 1
        for writer in self._writers:
            writer.write(int(step), numbers)

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


class _RowFile:
    """A text file of one row per line, each handed to the operating system as it is written."""

    def __init__(self, path: Path, text: str):
        self.path = path
        self._replace(text)

    def flush(self) -> None:
        """Returns when all rows are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and ends."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def _replace(self, text: str) -> None:
        """Makes the file hold this text, whole or not at all, and opens its end."""
        files.write_text(self.path, text)
        self._file = self.path.open("a", buffering=1, encoding="utf-8", newline="")


class _JsonLinesFile(_RowFile):
    """One JSON object per line, with a checksum; a number that is not finite becomes null."""

    def __init__(self, path: Path, rows: Iterable[metric_rows.Row]):
        super().__init__(path, "".join(map(metric_rows.line, rows)))

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._file.write(metric_rows.line({"step": step, **scalars}))


class _CsvFile(_RowFile):
    """A table with the step first; a metric that is new adds a column, empty in the rows before."""

    def __init__(self, path: Path, rows: Iterable[metric_rows.Row]):
        self._rows = [_with_nan(row) for row in rows]
        self._columns = list(dict.fromkeys(["step", *(name for row in self._rows for name in row)]))
        super().__init__(path, self._table_text())

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        row = {"step": step, **scalars}
        new_columns = [name for name in row if name not in self._columns]
        self._rows.append(row)
        if new_columns:
            self._columns += new_columns
            self.close()
            self._replace(self._table_text())
        else:
            self._file.write(_format_csv([self._row_cells(row)]))

    def _table_text(self) -> str:
        return _format_csv([self._columns, *map(self._row_cells, self._rows)])

    def _row_cells(self, row: Mapping[str, Any]) -> list[Any]:
        return [row.get(name, "") for name in self._columns]


class _TensorBoard:
    """Event files for TensorBoard, in the folder `tensorboard`."""

    def __init__(self, folder: Path, after: int):
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise _missing("tb", "tensorboardX") from error
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)
        self.flush = self._writer.flush
        self.close = self._writer.close

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)


class _WandB:
    """A run of W&B per training, named by its path below the work folder and grouped by the run folder."""

    def __init__(self, folder: Path, workdir: Path, settings: Mapping[str, Any] | None):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise _missing("wandb", "wandb") from error
        path_parts = _path_parts_below(folder, workdir)
        self._run = wandb.init(
            project="jaxprune",
            id=wandb_id(path_parts),
            name="/".join(path_parts),
            group=path_parts[0],
            resume="allow",
            dir=str(folder),
            config=dict(settings or {}),
        )
        self.close = self._run.finish

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._run.log(dict(scalars), step=step)

    def flush(self) -> None:
        pass


def _with_nan(row: metric_rows.Row) -> metric_rows.Row:
    """Returns a row of a JSON file as the table shows it: NaN where the number was not finite."""
    return {name: float("nan") if value is None else value for name, value in row.items()}


def _to_number(value: Any) -> float | int:
    """Returns a Python number; of a `float32` the shortest decimals, 0.1 and not 0.10000000149011612."""
    if isinstance(value, float | int):
        return value
    array = np.asarray(value).reshape(())
    return array.item() if array.dtype.kind in "biu" else float(str(array[()]))


def wandb_id(parts: Iterable[str]) -> str:
    """Returns an id that no other path below the work folder has, in letters that W&B accepts.

    >>> wandb_id(["lenet-44136fa3", "GMP, 90 %", "seed_0"])
    'lenet-44136fa3-GMP-90-seed_0-2d3164dd'
    """
    path = "/".join(parts)
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:8]
    readable_part = re.sub(r"[^A-Za-z0-9_]+", "-", path).strip("-")
    return f"{readable_part[:100]}-{digest}"


def _path_parts_below(folder: Path, workdir: Path) -> tuple[str, ...]:
    """Returns the parts of a folder's path below the work folder; elsewhere its last two."""
    absolute_folder = folder.absolute()
    absolute_workdir = workdir.absolute()
    if absolute_folder.is_relative_to(absolute_workdir) and absolute_folder != absolute_workdir:
        return absolute_folder.relative_to(absolute_workdir).parts
    return absolute_folder.parts[-2:]


def _format_csv(rows: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _missing(extra: str, package: str) -> UserError:
    return UserError(
        f"config.writers asks for {extra!r}, but {package} is not installed: "
        f"pip install -e '.[{extra}]'."
    )
