"""Files damaged on purpose, and what readers make of them."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments.config import UserError


def flipped(path: Path, count: int, seed: int = 0) -> Iterator[str]:
    """Flips one bit of a file at a time, and puts it back; all of them if there are no more than `count`."""
    before = path.read_bytes()
    bits = range(8 * len(before))
    for bit in bits if count >= len(bits) else random.Random(seed).sample(bits, count):
        damaged = bytearray(before)
        damaged[bit // 8] ^= 1 << (bit % 8)
        yield from _with(path, bytes(damaged), before, f"{path.name} bit {bit}")


def shortened(path: Path) -> Iterator[str]:
    """Cuts a file at several places, empties it, and removes it."""
    before = path.read_bytes()
    for end in sorted({0, 1, len(before) // 2, len(before) - 1} - {len(before)}):
        yield from _with(path, before[:end], before, f"{path.name} cut at {end}")
    path.unlink()
    yield f"{path.name} removed"
    path.write_bytes(before)


def _with(path: Path, damaged: bytes, before: bytes, case: str) -> Iterator[str]:
    path.write_bytes(damaged)
    assert path.read_bytes() != before
    yield case
    path.write_bytes(before)


def judge(
    tally: Any,
    case: str,
    read: Callable[[], Any],
    is_right: Callable[[Any], bool],
    names: Path,
    refusals: tuple[type[Exception], ...] = (UserError, ValueError, FileNotFoundError),
) -> None:
    """Counts what came of a read: the right value, or one sentence that names the file or its folder."""
    tally.happened(True, case)  # `flipped` and `shortened` have looked
    try:
        value = read()
    except refusals as error:
        text = str(error)
        if "\n" in text or str(names) not in text:
            tally.foreign.append(f"{case}: {type(error).__name__}: {text[:200]}")
        else:
            tally.survive()
    except Exception as error:
        tally.foreign.append(f"{case}: {type(error).__name__}: {str(error)[:200]}")
    else:
        if is_right(value):
            tally.survive()
        else:
            tally.silent.append(case)
