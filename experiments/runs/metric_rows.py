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
from typing import Any, NamedTuple

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


class _Found(NamedTuple):
    """What two files hold: rows in the order of their steps, and the lines that nobody can read."""

    rows: list[Row]
    lost: list[int]


def read(folder: Path) -> list[Row]:
    """Returns the rows of a folder's files, the second copy of those that are damaged, without those lost."""
    return _found(folder).rows


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
    found = _found(folder)
    rows = [row for row in found.rows if row["step"] <= after]
    if expected is not None:
        missing = max(expected - len(rows), 0)
    else:  # lines after the last row that is kept may belong to later steps
        missing = sum(number <= len(rows) for number in found.lost)
    if missing:
        _tell(folder / "metrics.jsonl", found.lost, missing, missing + len(rows), notify)
    return rows


def _found(folder: Path) -> _Found:
    """Matches the lines of the one file with the rows of the other, wherever they stand."""
    lines, copies = _lines(folder / "metrics.jsonl"), _copies(folder / "metrics.csv")
    sealed = any(_PRINTED.search(text) for text in lines)
    by_sum = {_sum(copy): copy for copy in copies}
    rows: dict[str, Row] = {}
    lost, contradicted = [], False
    for number, text in enumerate(lines, start=1):
        row, printed = _parsed(text), _PRINTED.search(text)
        stated = printed[1] if printed else None
        own = None if row is None else _sum(row)
        if own is not None and (own == stated or own in by_sum or (stated is None and not sealed)):
            rows.setdefault(own, row)
        elif stated in by_sum:
            rows.setdefault(stated, by_sum[stated])
        else:
            lost.append(number)
            contradicted |= stated is not None
    # What the lines lack, the table may have; more than that is a row of the table with another step.
    steps = {row["step"] for row in rows.values()}
    unknown = {_sum(copy): copy for copy in copies if copy["step"] not in steps}
    if not contradicted and len(unknown) <= len(by_sum) - len(rows):
        rows |= unknown
    return _Found(sorted(rows.values(), key=lambda row: row["step"]), lost)


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


def _copies(path: Path) -> list[Row]:
    """The rows of the table that make sense."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace").replace("\0", "?")
    try:
        whole = text[: text.rfind("\n") + 1]  # the last line may be cut short
        header, *rows = list(csv.reader(whole.splitlines())) or [["step"]]
    except csv.Error:
        return []
    return [row for cells in rows if (row := _copy(header, cells)) is not None]


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


def _tell(
    path: Path, lines: list[int], missing: int, count: int, notify: Callable[[str], None]
) -> None:
    """Says how many rows are lost, and keeps the file that had them."""
    kept = ""
    if path.exists():
        path.replace(path.with_name("metrics.jsonl.damaged"))
        kept = " The file is kept as metrics.jsonl.damaged."
    where = f" (lines {', '.join(map(str, lines[:5]))})" if lines else ""
    notify(
        f"{path} is damaged: {missing} of {count} rows cannot be restored{where}, and the curves of this "
        f"run lack them.{kept}"
    )


def _sum(row: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(row, sort_keys=True).encode()):08x}"
