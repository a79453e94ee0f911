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
    """Why a file is refused: the rest of a sentence that begins with its path."""


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
    try:
        places = _json(index.read_bytes()).get("weight_map")
        if not isinstance(places, dict):
            raise _DamagedError("is damaged: it has no weight_map")
        for name, file in places.items():
            # A name with a folder in it could reach any file of the machine.
            if not isinstance(file, str) or file in ("", ".", "..") or Path(file).name != file:
                raise _DamagedError(
                    f"is damaged: the file of {name!r} is {file!r}, no plain file name"
                )
    except _DamagedError as error:
        raise ValueError(f"safetensors.read: {index} {error}.") from error
    files = {file: _file(folder / file) for file in dict.fromkeys(places.values())}
    for name, file in places.items():
        if name not in files[file]:
            raise ValueError(
                f"safetensors.read: {folder / file} lacks {name!r}, which {index} places there."
            )
    return {name: files[file][name] for name, file in places.items()}


def _file(path: Path) -> dict[str, LazyLeaf]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise _DamagedError(
                    f"is no safetensors file or is incomplete: it claims a header of {length:,} bytes, the "
                    f"file has {size:,}, and {MAX_HEADER:,} are the most that are read"
                )
            header = _json(file.read(length))
        header.pop("__metadata__", None)
        return _leaves(path, header, 8 + length, size)
    except _DamagedError as error:
        raise ValueError(f"safetensors.read: {path} {error}.") from error


def _json(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        items = dict(pairs)
        if len(items) < len(pairs):
            raise _DamagedError("is damaged: a name is there twice")
        return items

    try:
        parsed = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _DamagedError(f"is damaged: it is no JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise _DamagedError("is damaged: it is no JSON object")
    return parsed


def _leaves(path: Path, header: dict[str, Any], start: int, size: int) -> dict[str, LazyLeaf]:
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    end = 0
    for name, (_, _, begin, after) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != end:
            raise _DamagedError(
                f"is damaged: {name!r} begins at byte {begin:,} of the numbers, the one before it ends at "
                f"{end:,}"
            )
        end = after
    if start + end != size:
        raise _DamagedError(
            f"is damaged or incomplete: its tensors end at byte {start + end:,}, the file has {size:,}"
        )
    return {
        name: _leaf(path, shape, dtype, start + begin)
        for name, (shape, dtype, begin, _) in entries.items()
    }


def _entry(name: str, entry: Any) -> tuple[tuple[int, ...], np.dtype, int, int]:
    """Shape, dtype, first byte and the byte after the last, if they agree."""
    known = isinstance(entry, dict) and {"dtype", "shape", "data_offsets"} <= set(entry)
    if not known or not _naturals(entry["shape"]) or not _naturals(entry["data_offsets"]):
        raise _DamagedError(f"is damaged: {name!r} lacks a proper dtype, shape or place")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise _DamagedError(
            f"has {name!r} in {entry['dtype']!r}, which is not read; {', '.join(DTYPES)} are"
        )
    dtype = DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    if len(entry["data_offsets"]) != 2:
        raise _DamagedError(f"is damaged: {name!r} has no beginning and end")
    begin, end = entry["data_offsets"]
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise _DamagedError(
            f"is damaged: {name!r} of shape {shape} in {entry['dtype']} has {end - begin:,} bytes"
        )
    return shape, dtype, begin, end


def _naturals(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)


def _leaf(path: Path, shape: tuple[int, ...], dtype: np.dtype, place: int) -> LazyLeaf:
    def load() -> np.ndarray:
        count = math.prod(shape)
        numbers = np.fromfile(path, dtype, count, offset=place)
        if len(numbers) != count:
            raise ValueError(f"safetensors.read: {path} has become shorter since it was opened.")
        return numbers.reshape(shape)

    return LazyLeaf(shape, dtype, load)
