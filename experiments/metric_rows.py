"""Rows of metrics on disk: a checksum in each line of `metrics.jsonl`, and what to do where one is damaged.

The table `metrics.csv` holds the same rows without checksums. It is a second copy of those that are damaged
in the JSON lines; otherwise it is written anew from them.
"""

import csv
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Row", "line", "read", "restore"]

Row = dict[str, Any]  # step and metrics; `None` is what was not finite
_SUM = "crc32"
_PRINTED = re.compile(rf'"{_SUM}": "([0-9a-f]{{8}})"}}\s*$')


def line(row: Mapping[str, Any]) -> str:
    """Returns the line of a row.

    >>> line({"step": 100, "loss": 0.5})
    '{"step": 100, "loss": 0.5, "crc32": "4dc36cb6"}\\n'
    """
    finite = {k: v if v is None or math.isfinite(v) else None for k, v in row.items()}
    return json.dumps({**finite, _SUM: _sum(finite)}, allow_nan=False) + "\n"


def read(folder: Path) -> list[Row]:
    """Returns the rows of a folder's files, the second copy of those that are damaged, without those lost."""
    lines, copies = _lines(folder / "metrics.jsonl"), _copies(folder / "metrics.csv")
    return [row for row in _matched(lines, copies, max(len(lines), len(copies))) if row is not None]


def restore(
    folder: Path, after: int, expected: int | None, notify: Callable[[str], None]
) -> list[Row]:
    """Returns the rows of steps up to `after` that a folder's files hold.

    Args:
      folder: with `metrics.jsonl` and `metrics.csv`, or without them.
      after: a step; rows of later ones will come again. -1: all of them.
      expected: how many rows there were at that step, if that is known.
      notify: called with a sentence where rows are lost; the file that had them is kept.
    """
    if after < 0:
        return []
    path = folder / "metrics.jsonl"
    lines, copies = _lines(path), _copies(folder / "metrics.csv")
    found = _matched(lines, copies, max(len(lines), len(copies)) if expected is None else expected)
    if (
        expected is None
    ):  # what is damaged after the last row that is kept may belong to later steps
        kept = [i for i, row in enumerate(found) if row is not None and row["step"] <= after]
        found = found[: max(kept, default=-1) + 1]
    good = [row is not None and row["step"] <= after for row in found]
    if not all(good):
        _tell(path, [i + 1 for i, is_good in enumerate(good) if not is_good], len(found), notify)
    return [row for row in found if row is not None and row["step"] <= after]


def _matched(lines: list[str], copies: list[Row | None], count: int) -> list[Row | None]:
    """The first so many rows: a line of the one file and a row of the other each."""
    sealed = any(_PRINTED.search(text) for text in lines)
    texts = [*lines, *[""] * (count - len(lines))][:count]
    others = [*copies, *[None] * (count - len(copies))][:count]
    return [_row(text, copy, sealed) for text, copy in zip(texts, others, strict=True)]


def _row(text: str, copy: Row | None, sealed: bool) -> Row | None:
    """The row of a line, or its copy from the table; `None` if neither can be trusted.

    Args:
      text: the line, "" if the file has none there.
      copy: the row of the table in the same place.
      sealed: whether the file's lines carry checksums.
    """
    if not text.strip():
        return copy
    row, printed = _parsed(text), _PRINTED.search(text)
    stated = printed[1] if printed else None
    if row is not None and (stated == _sum(row) or (stated is None and not sealed) or row == copy):
        return row
    return copy if copy is not None and stated == _sum(copy) else None


def _parsed(text: str) -> Row | None:
    """The row that a line spells, without its checksum."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    row.pop(_SUM, None)
    plain = all(value is None or type(value) in (int, float, bool) for value in row.values())
    return row if plain and type(row.get("step")) is int else None


def _lines(path: Path) -> list[str]:
    """The lines of a file of JSON lines; two whose line break is damaged come apart."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    return [line for line in re.split(r'\n|(?<=\}).(?=\{"step")', text) if line.strip()]


def _copies(path: Path) -> list[Row | None]:
    """The rows of the table, `None` where one makes no sense."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace").replace("\0", "?")
    try:
        header, *rows = list(csv.reader(text.splitlines())) or [["step"]]
    except csv.Error:
        return []
    return [_copy(header, row) for row in rows]


def _copy(header: list[str], cells: list[str]) -> Row | None:
    if len(cells) != len(header):
        return None
    try:
        row = {name: _value(cell) for name, cell in zip(header, cells, strict=True) if cell != ""}
    except ValueError:
        return None
    return row if type(row.get("step")) is int else None


def _value(cell: str) -> float | int | None:
    if re.fullmatch(r"-?\d+", cell):
        return int(cell)
    value = float(cell)
    return value if math.isfinite(value) else None


def _tell(path: Path, places: list[int], count: int, notify: Callable[[str], None]) -> None:
    """Says which rows are lost, and keeps the file that had them."""
    kept = ""
    if path.exists():
        path.replace(path.with_name("metrics.jsonl.damaged"))
        kept = " The file is kept as metrics.jsonl.damaged."
    lost = ", ".join(map(str, places[:5])) + (", ..." if len(places) > 5 else "")
    notify(
        f"{path} is damaged: {len(places)} of {count} rows (in lines {lost}) cannot be restored, and the "
        f"curves of this run lack them.{kept}"
    )


def _sum(row: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(row, sort_keys=True).encode()):08x}"
