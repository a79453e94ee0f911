"""Reads GGUF files: metadata at once, tensors when they are asked for.

A file is a header, metadata by key, a table of tensors, and their numbers. It may come from anywhere:
each length is compared with the rest of the file before memory is allocated, so a damaged or hostile file is
refused in a sentence and takes no more memory than a few times its own size.
"""

import math
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprune.models.blocks import TYPES, StorageType
from jaxprune.models.leaves import LazyLeaf

__all__ = ["GGUF", "read"]


def __dir__() -> list[str]:
    return sorted(__all__)


MAX_AXES = 4
STRING = 8
ARRAY = 9
NUMBERS = {  # value types of metadata that have a fixed size
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}


class GGUF(NamedTuple):
    """Content of a GGUF file.

    Attributes:
      metadata: numbers, text, lists of text and NumPy vectors by key, such as "llama.block_count"; vocabulary
        and merges are "tokenizer.ggml.tokens" and "tokenizer.ggml.merges".
      tensors: by name. Axes are in NumPy's order, the slowest first (the file counts them the other way), so
        the weight of a linear layer is [outputs, inputs]. Quantised tensors read as float32.
      types: how each tensor is stored, such as "Q4_1".
    """

    metadata: dict[str, Any]
    tensors: dict[str, LazyLeaf]
    types: dict[str, str]


class _DamagedError(Exception):
    """Says why a file is refused: the rest of a sentence that begins with its path."""


def read(path: str | os.PathLike) -> GGUF:
    """Reads the metadata of a GGUF file (versions 2 and 3) and the table of its tensors.

    The file is mapped, not loaded; it must stay as it is while tensors are read.

    Args:
      path: of the file.

    Returns:
      A `GGUF`; its tensors are `LazyLeaf`.

    Raises:
      ValueError: the file is not GGUF, is damaged, or has a tensor of a type that is not known here.
      OSError: it cannot be opened.

    References:
      "GGUF", specification in the documentation of ggml (2023-2025).
    """
    path = Path(path)
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError(f"gguf.read: {path} is empty.")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _file(_Cursor(mapped))
    except _DamagedError as error:
        raise ValueError(f"gguf.read: {path} {error}.") from error


class _Cursor:
    """A position in the file from which values are read, none beyond its end."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.mapped = mapped
        self.size = len(mapped)
        self.position = 0

    @property
    def left(self) -> int:
        return self.size - self.position

    def skip(self, length: int) -> int:
        """Moves on by so many bytes; returns the position before."""
        if length > self.left:
            raise _DamagedError(
                f"is damaged: at byte {self.position:,} it claims {length:,} bytes and has {self.left:,}"
            )
        start = self.position
        self.position += length
        return start

    def integer(self, form: str) -> int:
        start = self.skip(struct.calcsize(form))
        return struct.unpack_from(form, self.mapped, start)[0]

    def count(self, least: int) -> int:
        """Reads the number of items to come, each of at least so many bytes."""
        count = self.integer("<Q")
        if count * least > self.left:
            raise _DamagedError(
                f"is damaged: at byte {self.position:,} it claims {count:,} items, more than fit into the "
                f"{self.left:,} bytes that are left"
            )
        return count

    def text(self) -> str:
        start = self.skip(self.count(1))
        try:
            return self.mapped[start : self.position].decode()
        except UnicodeDecodeError as error:
            raise _DamagedError(f"has text at byte {start:,} that is not UTF-8") from error

    def numbers(self, dtype: np.dtype, count: int) -> np.ndarray:
        start = self.skip(count * dtype.itemsize)
        return np.frombuffer(self.mapped, dtype, count, start).copy()


def _file(cursor: _Cursor) -> GGUF:
    """Reads header, metadata and the table of tensors."""
    if cursor.left < 24 or cursor.mapped[:4] != b"GGUF":
        raise _DamagedError(
            "is not a GGUF file: it does not begin with the bytes 'GGUF' and a header"
        )
    cursor.skip(4)
    version = cursor.integer("<I")
    if version not in (2, 3):
        raise _DamagedError(
            f"has version {version} of the format, or its bytes are in the other order; only little-endian "
            "files of versions 2 and 3 are read"
        )
    tensor_count = cursor.count(24)
    metadata = _items_by_name(cursor, cursor.count(13), _value, "the key")
    entries = _items_by_name(cursor, tensor_count, _entry, "the tensor")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise _DamagedError(f"is damaged: its alignment is {alignment!r}, not a multiple of 8")
    start = -(-cursor.position // alignment) * alignment
    _check_places(entries, alignment, start, cursor.size)
    leaves = {name: _leaf(cursor.mapped, start, entry) for name, entry in entries.items()}
    return GGUF(metadata, leaves, {name: entry.type.name for name, entry in entries.items()})


def _items_by_name(
    cursor: _Cursor, count: int, item: Callable[[_Cursor, str], Any], what: str
) -> dict[str, Any]:
    """Reads items that begin with their names; refuses a name that is there twice."""
    items: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.text()
        if name in items:
            raise _DamagedError(f"is damaged: it has {what} {name!r} twice")
        items[name] = item(cursor, name)
    return items


def _value(cursor: _Cursor, key: str) -> Any:
    """Reads a value of the metadata: a number, text, or a list of either."""
    value_type = cursor.integer("<I")
    if value_type == STRING:
        return cursor.text()
    if value_type in NUMBERS:
        return cursor.numbers(NUMBERS[value_type], 1)[0].item()
    if value_type != ARRAY:
        raise _DamagedError(f"is damaged: {key!r} has a value of the unknown type {value_type}")
    value_type = cursor.integer("<I")
    if value_type == STRING:
        return [cursor.text() for _ in range(cursor.count(8))]
    if value_type in NUMBERS:
        return cursor.numbers(NUMBERS[value_type], cursor.count(NUMBERS[value_type].itemsize))
    raise _DamagedError(
        f"has a list of values of type {value_type} at {key!r}; lists of text or numbers are read"
    )


class _Entry(NamedTuple):
    """A line of the table of tensors; `offset` is counted in bytes from where the numbers begin."""

    name: str
    shape: tuple[int, ...]
    type: StorageType
    offset: int

    @property
    def blocks(self) -> int:
        return math.prod(self.shape) // self.type.values

    @property
    def nbytes(self) -> int:
        return self.blocks * self.type.layout.itemsize


def _entry(cursor: _Cursor, name: str) -> _Entry:
    """Reads a line of the table of tensors."""
    axis_count = cursor.integer("<I")
    if not 1 <= axis_count <= MAX_AXES:
        raise _DamagedError(
            f"is damaged: the tensor {name!r} has {axis_count} axes, not 1 to {MAX_AXES}"
        )
    shape = tuple(cursor.integer("<Q") for _ in range(axis_count))[::-1]
    if 0 in shape:
        raise _DamagedError(f"is damaged: the tensor {name!r} of shape {shape} has no numbers")
    storage_type = cursor.integer("<I")
    if storage_type not in TYPES:
        known_types = ", ".join(known_type.name for known_type in TYPES.values())
        raise _DamagedError(
            f"has the tensor {name!r} in storage type {storage_type}, which is not read; {known_types} are"
        )
    if shape[-1] % TYPES[storage_type].values:
        raise _DamagedError(
            f"is damaged: rows of {shape[-1]} numbers of the tensor {name!r} are no whole blocks of "
            f"{TYPES[storage_type].values}"
        )
    return _Entry(name, shape, TYPES[storage_type], cursor.integer("<Q"))


def _check_places(entries: dict[str, _Entry], alignment: int, start: int, size: int) -> None:
    """Refuses tensors beyond the end of the file, and those that overlap: their sum could be of any size."""
    end_offset = 0
    for entry in sorted(entries.values(), key=lambda entry: entry.offset):
        if entry.offset % alignment or entry.offset < end_offset:
            raise _DamagedError(
                f"is damaged: the tensor {entry.name!r} begins at {entry.offset:,}, inside another one or "
                f"not at a multiple of {alignment}"
            )
        end_offset = entry.offset + entry.nbytes
        if start + end_offset > size:
            raise _DamagedError(
                f"is damaged or incomplete: the tensor {entry.name!r} of shape {entry.shape} ends at byte "
                f"{start + end_offset:,} of {size:,}"
            )


def _leaf(mapped: mmap.mmap, start: int, entry: _Entry) -> LazyLeaf:
    """Returns a tensor that is decoded when it is read."""

    def load() -> np.ndarray:
        byte_offset = start + entry.offset
        blocks = np.frombuffer(mapped, entry.type.layout, entry.blocks, byte_offset)
        return entry.type.decode(blocks).reshape(entry.shape)

    return LazyLeaf(entry.shape, entry.type.dtype, load)
