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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "DamagedError",
    "canonical",
    "check_files",
    "checksum",
    "digest",
    "files_of",
    "manifest",
    "of_manifest",
    "parse",
    "sha256",
]

LARGEST = 1 << 28  # bytes of JSON that are parsed


class DamagedError(ValueError):
    """What was read is not what was written; the message says where it differs."""


def digest(*parts: bytes | memoryview) -> str:
    """Returns the checksum of bytes, BLAKE2b with 128 bits.

    >>> digest(b"ab") == digest(b"a", b"b")
    True
    """
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def sha256(*parts: bytes | memoryview) -> str:
    """Returns the SHA-256 of bytes, for values that are compared with those of other tools."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


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
    """Returns what a JSON text says.

    Raises:
      DamagedError: it is not JSON in UTF-8, is nested too deeply, has a key twice or is huge.

    >>> parse('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ...
    jaxprune.sealed.DamagedError: the key 'a' is there twice
    """
    if len(text) > LARGEST:
        raise DamagedError(f"its JSON has {len(text)} bytes, more than the {LARGEST} that are read")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_without_repetition)
    except DamagedError:
        raise
    except RecursionError:
        raise DamagedError("its JSON is nested too deeply") from None
    except ValueError as error:
        raise DamagedError(f"it is not JSON ({error})") from None


def manifest(kind: str, version: int, content: Mapping[str, Any]) -> bytes:
    """Returns the text of a manifest.

    Args:
      kind: what is described, such as "jaxprune masks".
      version: of its format; to be raised when older code could misread it.
      content: JSON, without the names of the manifest's own fields.
    """
    told = {"format": kind, "version": version, **content}
    told = json.loads(
        canonical(told)
    )  # tuples are lists, and keys are strings, as they will be read
    return json.dumps({**told, "checksum": digest(canonical(told))}, indent=1).encode()


def of_manifest(text: bytes | str, kind: str, version: int) -> dict[str, Any]:
    """Returns the content of a manifest, compared with its checksum.

    Raises:
      DamagedError: it is none, another one's, of another version, or was changed.
    """
    told = parse(text)
    if not isinstance(told, dict) or told.get("format") != kind:
        raise DamagedError(f"its manifest does not say that it is {kind!r}")
    if told.get("version") != version:
        raise DamagedError(
            f"it has version {told.get('version')} of its format, and this jaxprune reads {version}"
        )
    stated = told.pop("checksum", None)
    if stated != digest(canonical(told)):
        raise DamagedError("its manifest does not match its own checksum")
    return {key: value for key, value in told.items() if key not in ("format", "version")}


def files_of(folder: Path) -> dict[str, str]:
    """Returns the checksum of each file in a folder, by its path there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in paths}


def check_files(folder: Path, checksums: Any, allowed: Iterable[str] | None = None) -> None:
    """Compares the files of a folder with their checksums.

    Args:
      folder: where they are.
      checksums: what `files_of` returned, as it was read again.
      allowed: the names that must be there, neither more nor fewer; `None`: whatever is named in `checksums`.

    Raises:
      DamagedError: a file is missing or another one, or a name leads out of the folder.
    """
    if not isinstance(checksums, dict):
        raise DamagedError("the list of its files is none")
    if allowed is not None and set(checksums) != set(allowed):
        raise DamagedError(f"it lists the files {sorted(checksums)}, not {sorted(allowed)}")
    for name, stated in checksums.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DamagedError(f"it lists {name!r}, which is outside its folder")
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        if digest(path.read_bytes()) != stated:
            raise DamagedError(f"{name} does not match its checksum")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DamagedError(f"the key {twice!r} is there twice")
    return found
