"""Writes tensors one by one into safetensors files of bounded size, with an index when all are there."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from jaxprune.models.safetensors import DTYPES, INDEX
from jaxprune.models.safetensors import read as read_safetensors

__all__ = ["SafetensorsSink", "safetensors_sink"]

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class SafetensorsSink:
    """A folder of safetensors in the making; call it with a name and an array, and use it in `with`.

    Made by `safetensors_sink`. Without `with`, call `close` at the end.

    Attributes:
      folder: where the files are written.
      written: file by name of the tensors that are in files already.
      complete: whether the folder was a whole model when it was opened, so that tensors are only compared.
    """

    def __init__(
        self, folder: Path, shard_bytes: int, written: dict[str, str], complete: bool
    ) -> None:
        self.folder = folder
        self.written = written
        self.complete = complete
        self._shard_bytes = shard_bytes
        self._held: dict[str, np.ndarray] = {}
        self._found = set(written)  # of an earlier life, and not given again yet

    def __call__(self, name: str, array: Any) -> None:
        """Takes a tensor; writes a file when the tensors held in memory have reached its size.

        A tensor that a sink gone on with has in a file already may come again, once: it is compared.

        Args:
          name: of the tensor.
          array: its numbers; they are copied.

        Raises:
          ValueError: the name has been taken before, or the file has other numbers under it, or the format
            has no such dtype, or the folder is a whole model without such a tensor.
        """
        if name in self._found:
            self._compare(name, np.asarray(array))
            return
        if self.complete and name not in self.written:
            raise ValueError(
                f"safetensors_sink(resume=True): {self.folder} holds a whole model, which has no {name!r}; "
                "give another folder, or remove this one."
            )
        if name in self.written or name in self._held or name == "__metadata__":
            raise ValueError(
                f"safetensors_sink: {name!r} is there already or means something else in the format; give "
                "each tensor once, under a name of its own."
            )
        array = np.asarray(array)
        if array.dtype not in _NAMES:
            raise ValueError(
                f"safetensors_sink: {name!r} is of dtype {array.dtype}, which the format lacks; it has "
                f"{', '.join(map(str, DTYPES.values()))}."
            )
        self._held[name] = np.array(array, order="C")  # a copy: the caller may go on with its own
        if sum(held.nbytes for held in self._held.values()) >= self._shard_bytes:
            self.flush()

    def _compare(self, name: str, array: np.ndarray) -> None:
        """Refuses a tensor that differs from the one that an earlier life wrote."""
        file_path = self.folder / self.written[name]
        stored = read_safetensors(file_path)[name].read()
        same_kind = stored.dtype == array.dtype and stored.shape == array.shape
        if not same_kind or stored.tobytes() != array.tobytes():
            raise ValueError(
                f"safetensors_sink(resume=True): {file_path} has another {name!r} than is given now; give "
                "another folder, or remove this one."
            )
        self._found.remove(name)

    def flush(self) -> None:
        """Writes the tensors held in memory into a file, which appears whole or not at all."""
        if not self._held:
            return
        shard_count = len(set(self.written.values()))
        file_name = f"model-{shard_count + 1:05}.safetensors"
        _write(self.folder / file_name, self._held)
        self.written.update(dict.fromkeys(self._held, file_name))
        self._held = {}

    def close(self) -> None:
        """Writes the tensors that are left, and the index, without which the folder is not a model."""
        if self.complete:
            return
        self.flush()
        total_bytes = sum(
            leaf.nbytes
            for file_path in self._files()
            for leaf in read_safetensors(file_path).values()
        )
        index = {"metadata": {"total_size": total_bytes}, "weight_map": self.written}
        partial_path = self.folder / f".{INDEX}.partial"
        partial_path.write_text(json.dumps(index, indent=1), encoding="utf-8")
        partial_path.replace(self.folder / INDEX)

    def _files(self) -> list[Path]:
        return [self.folder / file_name for file_name in dict.fromkeys(self.written.values())]

    def __enter__(self) -> "SafetensorsSink":
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes it; after an exception the folder stays without an index, to be resumed."""
        if kind is None:
            self.close()


def safetensors_sink(
    folder: str | os.PathLike, *, shard_bytes: int = 2**30, resume: bool = False
) -> SafetensorsSink:
    """Opens a folder into which tensors are written as they come, file by file.

    Args:
      folder: made if it is missing. It must not hold .safetensors files or their index.
      shard_bytes: a file is written once its tensors have so many bytes together; no more than that and the
        tensor that came last is held in memory.
      resume: go on with a folder that an earlier sink wrote: its whole files count as written, see
        `SafetensorsSink.written`, and their tensors need not be given again; if they are, they must be the
        same. Tensors held in memory when it was stopped are lost; `flush` writes them. Where it was closed,
        nothing is written any more.

    Returns:
      A `SafetensorsSink`.

    Raises:
      FileExistsError: the folder holds a model, or the beginning of one, and `resume` is false or no sink
        wrote it.
      ValueError: `shard_bytes` is less than 1, or a file that is to be gone on with is damaged.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with safetensors_sink(folder.name) as sink:
    ...     sink("norm", np.ones(3, np.float32))
    >>> read_safetensors(folder.name)["norm"].read().tolist()
    [1.0, 1.0, 1.0]
    >>> safetensors_sink(folder.name)
    Traceback (most recent call last):
    FileExistsError: safetensors_sink: ... holds a whole model; give another folder, remove this one, or ...
    >>> safetensors_sink(folder.name, resume=True).complete
    True
    >>> folder.cleanup()
    """
    if shard_bytes < 1:
        raise ValueError(f"safetensors_sink(shard_bytes={shard_bytes}): at least 1 is needed.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.glob("*.safetensors"))
    complete = (folder / INDEX).exists()
    if complete and not resume:
        raise FileExistsError(
            f"safetensors_sink: {folder} holds a whole model; give another folder, remove this one, or "
            "resume=True to compare what is given with it."
        )
    if files and not resume:
        raise FileExistsError(
            f"safetensors_sink: {folder} holds {files[0].name}; give another folder, or resume=True to go on."
        )
    expected_names = [f"model-{index + 1:05}.safetensors" for index in range(len(files))]
    for file, name in zip(files, expected_names, strict=True):
        if file.name != name:
            raise FileExistsError(
                f"safetensors_sink: {folder} holds {file.name}, which no sink wrote; give another folder."
            )
    written: dict[str, str] = {}
    for file in files:
        written.update(dict.fromkeys(read_safetensors(file), file.name))
    if complete:
        read_safetensors(folder)  # raises where index and files do not agree
    return SafetensorsSink(folder, shard_bytes, written, complete)


def _write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes tensors into a file, under another name until it is complete."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end_byte = 0
    for name, array in tensors.items():
        byte_range = [end_byte, end_byte + array.nbytes]
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": byte_range,
        }
        end_byte = byte_range[1]
    header_text = json.dumps(header).encode()
    header_text += b" " * (-len(header_text) % 8)  # numbers begin at a multiple of 8 bytes
    if path.exists():
        raise FileExistsError(
            f"safetensors_sink: {path} has appeared meanwhile; give another folder."
        )
    partial_path = path.with_name(f".{path.name}.partial")
    with partial_path.open("wb") as file:
        file.write(len(header_text).to_bytes(8, "little") + header_text)
        for array in tensors.values():
            file.write(array.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
    partial_path.rename(path)
