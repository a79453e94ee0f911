"""Files of a run folder: written whole or not at all, through no symlink, and read without surprises.

JSON is strict: what is not finite is null. Sealed JSON carries a checksum of its contents, so that a changed
digit is noticed.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

from experiments.config import UserError

__all__ = [
    "is_sealed",
    "read_json",
    "read_sealed",
    "read_text",
    "real_folder",
    "refuse_symlinks",
    "replacing",
    "seal",
    "strict",
    "sweep",
    "unsealed",
    "write_json",
    "write_sealed",
    "write_text",
]

_CHECKSUM_KEY = "checksum"
_LARGEST = 1 << 28  # bytes of a file that are read at once
_TEMPORARY_NAME = re.compile(r"\.(.+)\.(\d+)(\.[0-9a-f]{8})?\.tmp")


@contextlib.contextmanager
def replacing(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file that takes the place of `path` at the end of a `with`, on the disk for good.

    Whoever reads the path finds the old file or the new one, whole. A symlink is replaced, not followed.

    Args:
      path: the file.
      mode: "w" or "wb".
    """
    from jaxprune.storage.durable import whole_file  # with JAX, which mistakes are told before

    with whole_file(Path(path)) as file:
        if "b" in mode:
            yield file
            return
        text_file = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        try:
            yield text_file
            text_file.flush()
        finally:
            text_file.detach()


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8, whole or not at all."""
    with replacing(path) as file:
        file.write(text)


def write_json(path: Path | str, obj: Any) -> None:
    """Writes strict JSON, whole or not at all; what is not finite becomes null."""
    write_text(path, json.dumps(strict(obj), indent=1, allow_nan=False) + "\n")


def write_sealed(path: Path | str, obj: dict[str, Any]) -> str:
    """Writes a JSON object together with a checksum of its contents; returns the checksum."""
    sealed_object = seal(strict(obj))
    write_json(path, sealed_object)
    return sealed_object[_CHECKSUM_KEY]


def seal(obj: dict[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with one more field, the checksum of the others."""
    return {**obj, _CHECKSUM_KEY: _checksum(obj)}


def read_text(path: Path | str) -> str:
    """Reads UTF-8.

    Raises:
      UserError: it is not text, or cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _LARGEST:
                raise UserError(
                    f"{path} has {size} bytes, more than the {_LARGEST} that are read; move it away."
                )
            return file.read(size).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); move it away to start again.") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror or error}; move it away."
        ) from error


def read_json(path: Path | str, kind: type = object) -> Any:
    """Reads JSON.

    Args:
      path: the file.
      kind: what it must hold: `dict` or `list`.

    Raises:
      UserError: it is damaged or holds something else.
    """
    try:
        parsed = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); move it away to start again.") from error
    if not isinstance(parsed, kind):
        raise UserError(
            f"{path} holds a {type(parsed).__name__}, where a {kind.__name__} is needed; move it away to "
            "start again."
        )
    return parsed


def read_sealed(
    path: Path | str, checksum: str | None = None, *, required: bool = False
) -> dict[str, Any]:
    """Reads what `write_sealed` has written.

    Args:
      path: the file.
      checksum: the one that it must have, if that is known from elsewhere.
      required: whether a file without a checksum is refused; otherwise it is read as it is, as results from
        before there were checksums are.

    Raises:
      UserError: it is damaged.
    """
    stored = read_json(path)
    contents = unsealed(stored, path, required=required)
    if checksum is not None and stored.get(_CHECKSUM_KEY) != checksum:
        raise UserError(f"{path} does not match its checksum; move it away.")
    return contents


def is_sealed(path: Path | str) -> bool:
    """Returns whether a file of JSON has a checksum."""
    return _CHECKSUM_KEY in read_json(path, dict)


def unsealed(obj: Any, path: Path | str, *, required: bool = True) -> dict[str, Any]:
    """Returns the object that `seal` was given, without its checksum.

    Args:
      obj: a JSON object.
      path: the file to blame.
      required: whether an object without a checksum is refused; otherwise it is returned as it is.

    Raises:
      UserError: it is not what was sealed.
    """
    if not isinstance(obj, dict):
        raise UserError(
            f"{path} holds {type(obj).__name__} where an object is needed; move it away."
        )
    if required and _CHECKSUM_KEY not in obj:
        raise UserError(f"{path} has lost the checksum that it was written with; move it away.")
    contents = {key: value for key, value in obj.items() if key != _CHECKSUM_KEY}
    try:
        matches = _CHECKSUM_KEY not in obj or obj[_CHECKSUM_KEY] == _checksum(contents)
    except ValueError as error:  # numbers that are not finite, such as 1e999, were never sealed
        raise UserError(f"{path} is damaged ({error}); move it away.") from error
    if not matches:
        raise UserError(f"{path} does not match its checksum; move it away.")
    return contents


def refuse_symlinks(folder: Path) -> None:
    """Raises `UserError` if a symlink in a run folder leads out of it: files would be written there."""
    resolved_folder = folder.resolve()
    for parent, folder_names, file_names in os.walk(folder):
        for name in (*folder_names, *file_names):
            path = Path(parent, name)
            if path.is_symlink() and _leads_out(path, resolved_folder):
                raise UserError(
                    f"{path} is a symbolic link to {os.readlink(path)}; a run writes into its own folder "
                    "alone: move the link away, or set another --workdir."
                )


def _leads_out(path: Path, resolved_folder: Path) -> bool:
    """Returns whether a symlink leads out of a folder, or to itself, which is nowhere in it."""
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
    return not path.resolve().is_relative_to(resolved_folder)


def real_folder(path: Path) -> Path:
    """Makes a folder, unless it is there, and returns its path.

    Raises:
      UserError: a file or a symlink has its name.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path} is in the way: a folder is needed there; move it away.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def sweep(folder: Path) -> None:
    """Removes temporary files that killed processes have left in a folder that nobody else works in."""
    for path in folder.rglob(".*.tmp"):
        match = _TEMPORARY_NAME.fullmatch(path.name)
        if match and stat.S_ISREG(path.lstat().st_mode):
            path.unlink(missing_ok=True)


def _checksum(obj: dict[str, Any]) -> str:
    canonical_json = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical_json.encode()).hexdigest()[:32]


def strict(value: Any) -> Any:
    """Returns a value in types of strict JSON: tuples and arrays become lists, NaN and infinities `None`."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    raise TypeError(f"{type(value).__name__} has no place in JSON: {value!r}")
