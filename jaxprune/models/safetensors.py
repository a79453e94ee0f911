"""Reads safetensors files and folders of them: the headers at once, tensors when they are asked for.

A file is the length of its header, the header (JSON: dtype, shape and place of each tensor), and numbers. A
model in several files has an index that says which tensor is in which.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxprune.models.leaves import LazyLeaf

__all__ = ["DTYPES", "read"]


def __dir__() -> list[str]:
    return sorted(__all__)


MAX_HEADER = 100_000_000  # bytes, the limit of the format
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


class _DamagedError(Exception):
    """Says why a file is refused: the rest of a sentence that begins with its path."""


def read(path: str | os.PathLike) -> dict[str, LazyLeaf]:
    """Reads the headers of a file, or of a folder with one file or with several and an index.

    Args:
      path: of a .safetensors file, or of a folder with "model.safetensors.index.json" or
        "model.safetensors".

    Returns:
      The tensors by name, as `LazyLeaf`. Each opens its file when it is read, and reads nothing else of it.

    Raises:
      ValueError: a file or the index is damaged, or the two do not agree.
      FileNotFoundError: there is no such file.

    References:
      "Safetensors", format in the documentation of Hugging Face (2022-2025).
    """
    path = Path(path)
    if not path.is_dir():
        return _file(path)
    if (path / INDEX).is_file():
        return _folder(path, path / INDEX)
    if not (path / SINGLE).is_file():
        raise FileNotFoundError(f"safetensors.read: {path} has neither {INDEX} nor {SINGLE}.")
    return _file(path / SINGLE)


def _folder(folder: Path, index: Path) -> dict[str, LazyLeaf]:
    """Reads the headers of the files that an index names, and checks that they agree with it."""
    try:
        file_of_tensor = _json(index.read_bytes()).get("weight_map")
        if not isinstance(file_of_tensor, dict):
            raise _DamagedError("is damaged: it has no weight_map")
        for name, file_name in file_of_tensor.items():
            # A name with a folder in it could reach any file of the machine.
            if (
                not isinstance(file_name, str)
                or file_name in ("", ".", "..")
                or Path(file_name).name != file_name
            ):
                raise _DamagedError(
                    f"is damaged: the file of {name!r} is {file_name!r}, no plain file name"
                )
    except _DamagedError as error:
        raise ValueError(f"safetensors.read: {index} {error}.") from error
    leaves_of_file = {
        file_name: _file(folder / file_name) for file_name in dict.fromkeys(file_of_tensor.values())
    }
    for name, file_name in file_of_tensor.items():
        if name not in leaves_of_file[file_name]:
            raise ValueError(
                f"safetensors.read: {folder / file_name} lacks {name!r}, which {index} places there."
            )
    return {name: leaves_of_file[file_name][name] for name, file_name in file_of_tensor.items()}


def _file(path: Path) -> dict[str, LazyLeaf]:
    """Reads the header of one file."""
    try:
        with path.open("rb") as file:
            file_size = os.fstat(file.fileno()).st_size
            header_length = int.from_bytes(file.read(8), "little")
            if file_size < 8 or header_length > min(file_size - 8, MAX_HEADER):
                raise _DamagedError(
                    f"is no safetensors file or is incomplete: it claims a header of {header_length:,} "
                    f"bytes, the file has {file_size:,}, and {MAX_HEADER:,} are the most that are read"
                )
            header = _json(file.read(header_length))
        header.pop("__metadata__", None)
        return _leaves(path, header, 8 + header_length, file_size)
    except _DamagedError as error:
        raise ValueError(f"safetensors.read: {path} {error}.") from error


def _json(text: bytes) -> dict[str, Any]:
    """Parses a JSON object; refuses names that are there twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        items_by_name = dict(pairs)
        if len(items_by_name) < len(pairs):
            raise _DamagedError("is damaged: a name is there twice")
        return items_by_name

    try:
        parsed = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"is damaged: it is no JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise _DamagedError("is damaged: it is no JSON object")
    return parsed


def _leaves(path: Path, header: dict[str, Any], start: int, size: int) -> dict[str, LazyLeaf]:
    """Returns the tensors of a header, after checking that they fill the file without gaps."""
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    last_end = 0
    for name, (_, _, begin_byte, end_byte) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin_byte != last_end:
            raise _DamagedError(
                f"is damaged: {name!r} begins at byte {begin_byte:,} of the numbers, the one before it ends "
                f"at {last_end:,}"
            )
        last_end = end_byte
    if start + last_end != size:
        raise _DamagedError(
            f"is damaged or incomplete: its tensors end at byte {start + last_end:,}, the file has {size:,}"
        )
    return {
        name: _leaf(path, shape, dtype, start + begin_byte)
        for name, (shape, dtype, begin_byte, _) in entries.items()
    }


def _entry(name: str, entry: Any) -> tuple[tuple[int, ...], np.dtype, int, int]:
    """Returns shape, dtype, first byte and the byte after the last, after checking that they agree."""
    is_complete = isinstance(entry, dict) and {"dtype", "shape", "data_offsets"} <= set(entry)
    if not is_complete or not _naturals(entry["shape"]) or not _naturals(entry["data_offsets"]):
        raise _DamagedError(f"is damaged: {name!r} lacks a proper dtype, shape or place")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise _DamagedError(
            f"has {name!r} in {entry['dtype']!r}, which is not read; {', '.join(DTYPES)} are"
        )
    dtype = DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    if len(entry["data_offsets"]) != 2:
        raise _DamagedError(f"is damaged: {name!r} has no beginning and end")
    begin_byte, end_byte = entry["data_offsets"]
    if end_byte - begin_byte != math.prod(shape) * dtype.itemsize:
        raise _DamagedError(
            f"is damaged: {name!r} of shape {shape} in {entry['dtype']} has {end_byte - begin_byte:,} bytes"
        )
    return shape, dtype, begin_byte, end_byte


def _naturals(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(
        type(number) is int and number >= 0 for number in numbers
    )


def _leaf(path: Path, shape: tuple[int, ...], dtype: np.dtype, place: int) -> LazyLeaf:
    """Returns a tensor whose numbers are read from the file when they are asked for."""

    def load() -> np.ndarray:
        number_count = math.prod(shape)
        numbers = np.fromfile(path, dtype, number_count, offset=place)
        if len(numbers) != number_count:
            raise ValueError(f"safetensors.read: {path} has become shorter since it was opened.")
        return numbers.reshape(shape)

    return LazyLeaf(shape, dtype, load)
