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
_CHECKSUM_KEY = "crc32"
_CHECKSUM_AT_END = re.compile(rf'"{_CHECKSUM_KEY}": "([0-9a-f]{{8}})"}}\s*$')


def line(row: Mapping[str, Any]) -> str:
    """Returns a row as a line of `metrics.jsonl`, with its checksum.

    >>> line({"step": 100, "loss": 0.5})
    '{"step": 100, "loss": 0.5, "crc32": "4dc36cb6"}\\n'
    """
    finite_row = {
        name: value if value is None or math.isfinite(value) else None
        for name, value in row.items()
    }
    return json.dumps({**finite_row, _CHECKSUM_KEY: _checksum(finite_row)}, allow_nan=False) + "\n"


class _StoredRows(NamedTuple):
    """What the two files of a folder hold.

    Attributes:
      rows: those that could be read, in the order of their steps.
      lost_lines: numbers of the lines of `metrics.jsonl`, from 1, that neither file tells.
    """

    rows: list[Row]
    lost_lines: list[int]


def read(folder: Path) -> list[Row]:
    """Returns the rows of a folder that can be read: from `metrics.jsonl`, or else from `metrics.csv`."""
    return _read_rows(folder).rows


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
    stored = _read_rows(folder)
    rows = [row for row in stored.rows if row["step"] <= after]
    if expected is not None:
        missing_count = max(expected - len(rows), 0)
    else:  # lines after the last row that is kept may belong to later steps
        missing_count = sum(line_number <= len(rows) for line_number in stored.lost_lines)
    if missing_count:
        _report_lost_rows(
            folder / "metrics.jsonl",
            stored.lost_lines,
            missing_count,
            missing_count + len(rows),
            notify,
        )
    return rows


def _read_rows(folder: Path) -> _StoredRows:
    """Returns the rows of both files; lines of the one and rows of the other are matched by checksum."""
    line_texts = _read_line_texts(folder / "metrics.jsonl")
    table_rows = _read_table_rows(folder / "metrics.csv")
    has_checksums = any(_CHECKSUM_AT_END.search(line_text) for line_text in line_texts)
    table_row_by_checksum = {_checksum(row): row for row in table_rows}
    rows_by_checksum: dict[str, Row] = {}
    lost_lines = []
    is_contradicted = False
    for line_number, line_text in enumerate(line_texts, start=1):
        row = _parse_line(line_text)
        checksum_match = _CHECKSUM_AT_END.search(line_text)
        stated_checksum = checksum_match[1] if checksum_match else None
        actual_checksum = None if row is None else _checksum(row)
        if (
            row is not None
            and actual_checksum is not None
            and (
                actual_checksum == stated_checksum
                or actual_checksum in table_row_by_checksum
                or (stated_checksum is None and not has_checksums)
            )
        ):
            rows_by_checksum.setdefault(actual_checksum, row)
        elif stated_checksum in table_row_by_checksum:
            rows_by_checksum.setdefault(stated_checksum, table_row_by_checksum[stated_checksum])
        else:
            lost_lines.append(line_number)
            is_contradicted |= stated_checksum is not None
    # What the lines lack, the table may have; more than that is a row of the table with another step.
    steps = {row["step"] for row in rows_by_checksum.values()}
    only_in_table = {_checksum(row): row for row in table_rows if row["step"] not in steps}
    unmatched_count = len(table_row_by_checksum) - len(rows_by_checksum)
    if not is_contradicted and len(only_in_table) <= unmatched_count:
        rows_by_checksum |= only_in_table
    return _StoredRows(sorted(rows_by_checksum.values(), key=lambda row: row["step"]), lost_lines)


def _parse_line(line_text: str) -> Row | None:
    """Returns the row of a line, without its checksum; `None` if the line is damaged."""
    try:
        row = json.loads(line_text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    row.pop(_CHECKSUM_KEY, None)
    is_plain = all(value is None or type(value) in (int, float, bool) for value in row.values())
    return row if is_plain and type(row.get("step")) is int else None


def _read_line_texts(path: Path) -> list[str]:
    """Returns the lines of a file of JSON lines; two lines with a damaged line break are separated."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    return [
        line_text for line_text in re.split(r'\n|(?<=\}).(?=\{"step")', text) if line_text.strip()
    ]


def _read_table_rows(path: Path) -> list[Row]:
    """Returns the rows of the table that can be parsed."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace").replace("\0", "?")
    try:
        complete_lines = text[: text.rfind("\n") + 1]  # the last line may be cut short
        header, *rows = list(csv.reader(complete_lines.splitlines())) or [["step"]]
    except csv.Error:
        return []
    return [row for cells in rows if (row := _parse_table_row(header, cells)) is not None]


def _parse_table_row(header: list[str], cells: list[str]) -> Row | None:
    if len(cells) != len(header):
        return None
    try:
        row = {
            name: _parse_cell(cell) for name, cell in zip(header, cells, strict=True) if cell != ""
        }
    except ValueError:
        return None
    return row if type(row.get("step")) is int else None


def _parse_cell(cell: str) -> float | int | None:
    if re.fullmatch(r"-?\d+", cell):
        return int(cell)
    value = float(cell)
    return value if math.isfinite(value) else None


def _report_lost_rows(
    path: Path,
    lost_lines: list[int],
    missing_count: int,
    expected_count: int,
    notify: Callable[[str], None],
) -> None:
    """Notifies of the number of rows that are lost, and keeps the file that had them."""
    kept_sentence = ""
    if path.exists():
        path.replace(path.with_name("metrics.jsonl.damaged"))
        kept_sentence = " The file is kept as metrics.jsonl.damaged."
    lines_sentence = f" (lines {', '.join(map(str, lost_lines[:5]))})" if lost_lines else ""
    notify(
        f"{path} is damaged: {missing_count} of {expected_count} rows cannot be restored{lines_sentence}, "
        f"and the curves of this run lack them.{kept_sentence}"
    )


def _checksum(row: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(row, sort_keys=True).encode()):08x}"
