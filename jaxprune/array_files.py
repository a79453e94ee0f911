"""Arrays in an `.npz` file that NumPy alone can read, with a manifest, read within the size of the file.

Whoever made a file, reading it takes no more memory than a few times its bytes, runs nothing, and writes
nothing. Compressed members are refused, since they may unpack to any size, and `write` makes none.
"""

import ast
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxprune import sealed
from jaxprune.durable import whole_file
from jaxprune.sealed import DamagedError

__all__ = ["Arrays", "read", "write"]

_MANIFEST = "manifest"
_HEADER = 10_000  # bytes, at most, in front of an array
# Versions of NumPy's format, and how many bytes tell the length of the header.
_VERSIONS = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}


class Arrays(NamedTuple):
    """What a file holds.

    Attributes:
      arrays: by name; those of types that NumPy does not have are viewed as their own again.
      about: what else was written down.
    """

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]


def write(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    kind: str,
    version: int,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes arrays and their checksums, whole or not at all.

    Args:
      path: of the file; one that is there is replaced.
      arrays: by name. No name may be "manifest".
      kind: what the file is, such as "jaxprune masks".
      version: of its format.
      about: JSON to keep beside them.
    """
    told = {
        name: [str(array.dtype), list(array.shape), sealed.checksum(array)]
        for name, array in arrays.items()
    }
    text = sealed.manifest(kind, version, {"about": about or {}, "arrays": told})
    stored = {name: _storable(array) for name, array in arrays.items()}
    with whole_file(path) as file:
        np.savez(file, **{_MANIFEST: np.frombuffer(text, np.uint8), **stored})


def read(path: Path, *, kind: str, version: int) -> Arrays:
    """Reads what `write` wrote, one member after the other, each compared with its checksum.

    Raises:
      DamagedError: the file is another kind of file, of another version, or was changed.
      OSError: it cannot be read at all.
    """
    with path.open("rb") as stream:
        size = path.stat().st_size
        members = _members(stream, size)
        if _MANIFEST not in members:
            raise DamagedError("it has no manifest, so nothing of it can be compared")
        with zipfile.ZipFile(stream) as file:
            text = _array(file, members.pop(_MANIFEST)).tobytes()
            told = sealed.of_manifest(text, kind, version)
            stated, about = _stated(told)
            if stated.keys() != members.keys():
                raise DamagedError(_differing(stated, members))
            arrays = {}
            for name, (dtype, shape, checksum) in stated.items():
                array = _as_stated(name, _array(file, members[name]), dtype, shape)
                if sealed.checksum(array) != checksum:
                    raise DamagedError(f"{name!r} does not match its checksum")
                arrays[name] = array
    return Arrays(arrays, about)


def _members(stream: io.BufferedReader, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name, none of which claims to be anything but plain bytes within the file."""
    try:
        with zipfile.ZipFile(stream) as file:
            infos = file.infolist()
    except Exception as error:  # whatever a damaged file makes of the reader
        raise DamagedError(f"it is no .npz file ({error})") from None
    members: dict[str, zipfile.ZipInfo] = {}
    claimed = 0
    for info in infos:
        name = info.filename.removesuffix(".npy")
        claimed += info.file_size
        if name == info.filename or name in members:
            raise DamagedError(f"its member {info.filename!r} is no array, or is there twice")
        if info.flag_bits & 0x1:
            raise DamagedError(f"its member {name!r} is encrypted")
        if info.compress_type != zipfile.ZIP_STORED:
            raise DamagedError(f"its member {name!r} is compressed, which is never written here")
        if claimed > size or info.compress_size != info.file_size:
            raise DamagedError(
                f"its members claim {claimed} bytes or more, and the file has {size}"
            )
        members[name] = info
    return members


def _array(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One member, if its own header claims no more than is there."""
    name = info.filename
    try:
        raw = file.read(info)
    except Exception as error:  # whatever a damaged file makes of the reader
        raise DamagedError(f"its member {name!r} cannot be read ({error})") from None
    if raw[:6] != b"\x93NUMPY" or raw[6:8] not in _VERSIONS:
        raise DamagedError(f"its member {name!r} is no array of NumPy")
    start = 8 + _VERSIONS[raw[6:8]]
    length = int.from_bytes(raw[8:start], "little")
    if length > _HEADER:
        raise DamagedError(f"its member {name!r} has a header of {length} bytes")
    dtype, shape, by_columns = _header(name, raw[start : start + length])
    data = memoryview(raw)[start + length :]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise DamagedError(
            f"its member {name!r} claims the shape {shape} of {dtype}, and has {len(data)} bytes"
        )
    try:
        return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C").copy()
    except ValueError as error:  # without elements, and with axes longer than any array's
        raise DamagedError(f"its member {name!r} has an impossible shape ({error})") from None


def _header(name: str, text: bytes) -> tuple[np.dtype, tuple[int, ...], bool]:
    try:
        told = ast.literal_eval(text.decode("utf-8").strip())
        shape = told["shape"]
        if not isinstance(told["descr"], str) or not isinstance(told["fortran_order"], bool):
            raise ValueError("its type is none of plain numbers")
        dtype = np.dtype(told["descr"])
        proper = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not proper or dtype.hasobject or not dtype.itemsize or len(shape) > 32:
            raise ValueError(f"the type {dtype} and the shape {shape}")
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise DamagedError(f"its member {name!r} has an impossible header ({error})") from None
    return dtype, shape, told["fortran_order"]


def _stated(told: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the manifest says of the arrays, and what else."""
    arrays, about = told.get("arrays"), told.get("about")
    if not isinstance(arrays, dict) or not isinstance(about, dict):
        raise DamagedError("its manifest lists no arrays")
    for name, entry in arrays.items():
        if not isinstance(entry, list) or len(entry) != 3:
            raise DamagedError(f"its manifest says nothing that is of use about {name!r}")
    return arrays, about


def _storable(array: np.ndarray) -> np.ndarray:
    """The array, or its bytes if NumPy's own files do not know the type."""
    known = array.dtype.isbuiltin == 1
    return array if known else np.frombuffer(array.tobytes(), np.uint8)


def _as_stated(name: str, array: np.ndarray, dtype: Any, shape: Any) -> np.ndarray:
    """The array as its manifest describes it."""
    if str(array.dtype) == dtype and list(array.shape) == shape:
        return array
    try:
        if array.dtype == np.uint8 and array.ndim == 1:
            viewed = array.view(np.dtype(dtype)).reshape(shape)
            if list(viewed.shape) == shape:
                return viewed
    except (TypeError, ValueError):
        pass
    raise DamagedError(
        f"{name!r} is {array.dtype}{list(array.shape)}, and its manifest says {dtype}{shape}"
    )


def _differing(stated: Mapping[str, Any], members: Mapping[str, Any]) -> str:
    missing, extra = sorted(stated.keys() - members.keys()), sorted(members.keys() - stated.keys())
    said = [f"{missing[0]!r} is missing"] if missing else []
    said += [f"{extra[0]!r} is not in its manifest"] if extra else []
    return " and ".join(said)
