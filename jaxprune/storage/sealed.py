"""Checksums and manifests: what is stored is compared with them when it is read again.

Checkpoints, masks, plans, saved networks and prepared data all use this module. A file without a manifest is
refused wherever one is written today: if it were read with a warning, a file that had lost its manifest would
be read unchecked.

A manifest is a JSON object with the fields `format` (what it is), `version` (of the format), what that format
says of itself, and `checksum`, of all the others. Checksums find accidents. They are no signature: whoever
writes a file can also write its checksum.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "DamagedError",
    "canonical",
    "check_files",
    "checksum",
    "checksums_of_folder",
    "digest",
    "manifest",
    "parse",
    "read_bounded",
    "read_manifest",
    "sha256",
]

# Bytes of JSON that are parsed; as Python's objects they are up to 25 times as many.
LARGEST = 1 << 26


class DamagedError(ValueError):
    """Raised where what was read is not what was written; the message says where they differ."""


def digest(*parts: bytes | memoryview) -> str:
    """Returns the checksum of bytes, BLAKE2b with 128 bits.

    >>> digest(b"ab") == digest(b"a", b"b")
    True
    """
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def sha256(*parts: bytes | memoryview) -> str:
    """Returns the SHA-256 of bytes, for values that are compared with those of other tools."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()


def checksum(array: np.ndarray) -> str:
    """Returns the checksum of an array's type, shape and elements."""
    elements = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return digest(f"{array.dtype}{array.shape}".encode(), elements.data)


def canonical(value: Any) -> bytes:
    """Returns the one JSON text of a value: keys in order, no blanks.

    >>> canonical({"b": [1, 2], "a": None})
    b'{"a":null,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def parse(text: bytes | str) -> Any:
    """Returns the value of a JSON text.

    Raises:
      DamagedError: it is not JSON in UTF-8, is nested too deeply, has a key twice or is huge.

    >>> parse('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    jaxprune.storage.sealed.DamagedError: the key 'a' is there twice
    """
    if len(text) > LARGEST:
        raise DamagedError(f"its JSON has {len(text)} bytes, more than the {LARGEST} that are read")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_dict_of_pairs)
    except DamagedError:
        raise
    except RecursionError:
        raise DamagedError("its JSON is nested too deeply") from None
    except ValueError as error:
        raise DamagedError(f"it is not JSON ({error})") from None


def read_bounded(path: Path) -> bytes:
    """Returns the bytes of a file of JSON, for `parse`.

    Args:
      path: of the file.

    Raises:
      DamagedError: it is huge, and was not read.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        text = file.read(size) if size <= LARGEST else b""
    if size > LARGEST:
        raise DamagedError(f"its JSON has {size} bytes, more than the {LARGEST} that are read")
    return text


def manifest(kind: str, version: int, content: Mapping[str, Any]) -> bytes:
    """Returns the text of a manifest.

    Args:
      kind: what is described, such as "jaxprune masks".
      version: of its format; to be raised when older code could misread it.
      content: JSON, without the names of the manifest's own fields.
    """
    fields = {"format": kind, "version": version, **content}
    # As they will be read: tuples are lists, and keys are strings.
    fields = json.loads(canonical(fields))
    return json.dumps({**fields, "checksum": digest(canonical(fields))}, indent=1).encode()


def read_manifest(text: bytes | str, kind: str, version: int) -> dict[str, Any]:
    """Returns the content of a manifest, after a comparison with its checksum.

    Args:
      text: of the manifest.
      kind: what must be described, such as "jaxprune masks".
      version: of its format, the only one that is read.

    Raises:
      DamagedError: it is none, another one's, of another version, or was changed.
    """
    fields = parse(text)
    if not isinstance(fields, dict) or fields.get("format") != kind:
        raise DamagedError(f"its manifest does not say that it is {kind!r}")
    if fields.get("version") != version:
        raise DamagedError(
            f"it has version {fields.get('version')} of its format, and this jaxprune reads {version}"
        )
    stated_checksum = fields.pop("checksum", None)
    if stated_checksum != digest(canonical(fields)):
        raise DamagedError("its manifest does not match its own checksum")
    return {key: value for key, value in fields.items() if key not in ("format", "version")}


def checksums_of_folder(folder: Path) -> dict[str, str]:
    """Returns the checksum of each file in a folder, by its path there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in paths}


def check_files(folder: Path, checksums: Any, allowed: Iterable[str] | None = None) -> None:
    """Compares the files of a folder with their checksums.

    Args:
      folder: where they are.
      checksums: what `checksums_of_folder` returned, as it was read again.
      allowed: the names that must be there, neither more nor fewer; `None`: whatever is named in `checksums`.

    Raises:
      DamagedError: a file is missing or another one, or a name leads out of the folder.
    """
    if not isinstance(checksums, dict):
        raise DamagedError("the list of its files is none")
    if allowed is not None and set(checksums) != set(allowed):
        raise DamagedError(f"it lists the files {sorted(checksums)}, not {sorted(allowed)}")
    for name, stated_checksum in checksums.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DamagedError(f"it lists {name!r}, which is outside its folder")
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        if digest(path.read_bytes()) != stated_checksum:
            raise DamagedError(f"{name} does not match its checksum")


def _dict_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise DamagedError(f"the key {name!r} is there twice")
        mapping[name] = value
    return mapping
