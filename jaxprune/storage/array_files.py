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

from jaxprune.storage import sealed
from jaxprune.storage.durable import whole_file
from jaxprune.storage.sealed import DamagedError

__all__ = ["Arrays", "read", "write"]

_MANIFEST = "manifest"
_HEADER = 10_000  # bytes, at most, in front of an array
# Versions of NumPy's format, and how many bytes tell the length of the header.
_VERSIONS = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}


class Arrays(NamedTuple):
    """The content of a file.

    Attributes:
      arrays: by name, in the dtypes in which they were written.
      about: what else was written, the same JSON.
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
    descriptions = {
        name: [str(array.dtype), list(array.shape), sealed.checksum(array)]
        for name, array in arrays.items()
    }
    manifest_text = sealed.manifest(kind, version, {"about": about or {}, "arrays": descriptions})
    storable_arrays = {name: _storable(array) for name, array in arrays.items()}
    with whole_file(path) as file:
        np.savez(file, **{_MANIFEST: np.frombuffer(manifest_text, np.uint8), **storable_arrays})


def read(path: Path, *, kind: str, version: int) -> Arrays:
    """Reads what `write` wrote, one member after the other, each compared with its checksum.

    Args:
      path: of the file.
      kind: what the file must be, such as "jaxprune masks".
      version: of its format, the only one that is read.

    Raises:
      DamagedError: the file is another kind of file, of another version, or was changed.
      OSError: it cannot be read at all.
    """
    with path.open("rb") as stream:
        file_size = path.stat().st_size
        members = _members(stream, file_size)
        if _MANIFEST not in members:
            raise DamagedError("it has no manifest, so nothing of it can be compared")
        with zipfile.ZipFile(stream) as file:
            manifest_text = _array(file, members.pop(_MANIFEST)).tobytes()
            fields = sealed.read_manifest(manifest_text, kind, version)
            descriptions, about = _described_arrays(fields)
            if descriptions.keys() != members.keys():
                raise DamagedError(_describe_difference(descriptions, members))
            arrays = {}
            for name, (dtype, shape, checksum) in descriptions.items():
                array = _as_described(name, _array(file, members[name]), dtype, shape)
                if sealed.checksum(array) != checksum:
                    raise DamagedError(f"{name!r} does not match its checksum")
                arrays[name] = array
    return Arrays(arrays, about)


def _members(stream: io.BufferedReader, size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the members by name; refuses what claims to be anything but plain bytes within the file."""
    try:
        with zipfile.ZipFile(stream) as file:
            infos = file.infolist()
    except Exception as error:  # whatever a damaged file makes of the reader
        raise DamagedError(f"it is no .npz file ({error})") from None
    members: dict[str, zipfile.ZipInfo] = {}
    claimed_size = 0
    for info in infos:
        name = info.filename.removesuffix(".npy")
        claimed_size += info.file_size
        if name == info.filename or name in members:
            raise DamagedError(f"its member {info.filename!r} is no array, or is there twice")
        if info.flag_bits & 0x1:
            raise DamagedError(f"its member {name!r} is encrypted")
        if info.compress_type != zipfile.ZIP_STORED:
            raise DamagedError(f"its member {name!r} is compressed, which is never written here")
        if claimed_size > size or info.compress_size != info.file_size:
            raise DamagedError(
                f"its members claim {claimed_size} bytes or more, and the file has {size}"
            )
        members[name] = info
    return members


def _array(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Reads one member, if its own header claims no more than is there."""
    name = info.filename
    try:
        content = file.read(info)
    except Exception as error:  # whatever a damaged file makes of the reader
        raise DamagedError(f"its member {name!r} cannot be read ({error})") from None
    if content[:6] != b"\x93NUMPY" or content[6:8] not in _VERSIONS:
        raise DamagedError(f"its member {name!r} is no array of NumPy")
    header_start = 8 + _VERSIONS[content[6:8]]
    header_length = int.from_bytes(content[8:header_start], "little")
    if header_length > _HEADER:
        raise DamagedError(f"its member {name!r} has a header of {header_length} bytes")
    dtype, shape, is_fortran = _header(name, content[header_start : header_start + header_length])
    data = memoryview(content)[header_start + header_length :]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise DamagedError(
            f"its member {name!r} claims the shape {shape} of {dtype}, and has {len(data)} bytes"
        )
    try:
        return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C").copy()
    except ValueError as error:  # without elements, and with axes longer than any array's
        raise DamagedError(f"its member {name!r} has an impossible shape ({error})") from None


def _header(name: str, text: bytes) -> tuple[np.dtype, tuple[int, ...], bool]:
    """Returns dtype, shape and whether columns come first, as the header of a member says."""
    try:
        fields = ast.literal_eval(text.decode("utf-8").strip())
        shape = fields["shape"]
        if not isinstance(fields["descr"], str) or not isinstance(fields["fortran_order"], bool):
            raise ValueError("its type is none of plain numbers")
        dtype = np.dtype(fields["descr"])
        is_valid_shape = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not is_valid_shape or dtype.hasobject or not dtype.itemsize or len(shape) > 32:
            raise ValueError(f"the type {dtype} and the shape {shape}")
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise DamagedError(f"its member {name!r} has an impossible header ({error})") from None
    return dtype, shape, fields["fortran_order"]


def _described_arrays(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what the manifest says of each array, and what it says besides."""
    descriptions = fields.get("arrays")
    about = fields.get("about")
    if not isinstance(descriptions, dict) or not isinstance(about, dict):
        raise DamagedError("its manifest lists no arrays")
    for name, description in descriptions.items():
        if not isinstance(description, list) or len(description) != 3:
            raise DamagedError(f"its manifest says nothing that is of use about {name!r}")
    return descriptions, about


def _storable(array: np.ndarray) -> np.ndarray:
    """Returns the array, or its bytes if NumPy's own files do not know the dtype."""
    is_builtin = array.dtype.isbuiltin == 1
    return array if is_builtin else np.frombuffer(array.tobytes(), np.uint8)


def _as_described(name: str, array: np.ndarray, dtype: Any, shape: Any) -> np.ndarray:
    """Returns the array in the dtype and shape of its description in the manifest."""
    if str(array.dtype) == dtype and list(array.shape) == shape:
        return array
    try:
        if array.dtype == np.uint8 and array.ndim == 1:
            view = array.view(np.dtype(dtype)).reshape(shape)
            if list(view.shape) == shape:
                return view
    except (TypeError, ValueError):
        pass
    raise DamagedError(
        f"{name!r} is {array.dtype}{list(array.shape)}, and its manifest says {dtype}{shape}"
    )


def _describe_difference(descriptions: Mapping[str, Any], members: Mapping[str, Any]) -> str:
    """Returns the words for arrays that are missing, and for those that are not in the manifest."""
    missing_names = sorted(descriptions.keys() - members.keys())
    extra_names = sorted(members.keys() - descriptions.keys())
    clauses = [f"{missing_names[0]!r} is missing"] if missing_names else []
    clauses += [f"{extra_names[0]!r} is not in its manifest"] if extra_names else []
    return " and ".join(clauses)
