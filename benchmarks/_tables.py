"""Markdown tables, and the line that says on what a benchmark ran."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["hardware_line", "markdown", "verdict"]


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; cells may hold bars."""
    clean = lambda cell: cell.replace("|", "\\|")
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(clean, line)) + " |" for line in lines)


def hardware_line(hardware: Mapping[str, Any]) -> str:
    """Returns processor, cores, devices and versions in one line."""
    versions = ", ".join(f"{name} {v}" for name, v in hardware["versions"].items() if v)
    kinds = dict.fromkeys(hardware["devices"])
    devices = ", ".join(f"{hardware['devices'].count(kind)} x {kind}" for kind in kinds)
    return f"{hardware['processor']}, {hardware['cores']} cores; {devices}; {versions}"


def verdict(holds: bool | None) -> str:
    """Returns what a table says of a bar; `None`: there is none."""
    return {None: "", True: "yes", False: "no"}[holds]
