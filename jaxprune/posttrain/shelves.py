"""Where activations wait for the next segment: on the device, on the host, or in a temporary file."""

import os
import tempfile
import weakref
from io import BufferedRandom
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.posttrain.work import Stream

__all__ = ["Shelf"]


class _Field(NamedTuple):
    """An array in a slot; `offset` is counted in bytes from where the slot begins."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


class Shelf:
    """Keeps streams: those of the first batches in memory, those of the others in slots of a file.

    The file has no name: it is gone when the process is, however it ends. A slot is free again once nothing
    refers to its stream.

    Args:
      on_host: whether streams in memory are on the host, not on the device.
      in_memory: number of batches whose streams are in memory; `None`: all.
      slot_bytes: the most bytes of the stream of one batch.
      folder: where the file is made; `None`: where Python makes temporary files.
    """

    def __init__(
        self, on_host: bool, in_memory: int | None, slot_bytes: int, folder: Path | None
    ) -> None:
        self._on_host = on_host
        self._in_memory = in_memory
        self._slot_bytes = slot_bytes
        self._folder = folder
        self._file: BufferedRandom | None = None
        self._free_slots: list[int] = []
        self._slot_count = 0

    def first(self, batch: int, stream: Stream) -> "Stream | _FiledStream":
        """Returns the arrays of a batch as a kept stream, in a slot if there is no room in memory."""
        return stream if self._has_room(batch) else self._filed(stream)

    def keep(self, batch: int, stream: Stream) -> "Stream | _FiledStream":
        """Returns a stream as it is kept; `read` gives its arrays.

        Args:
          batch: index of its batch, which decides on the place.
          stream: activations by variable.
        """
        if not self._has_room(batch):
            return self._filed(stream)
        if self._on_host:
            return {variable: _on_host(array) for variable, array in stream.items()}
        return stream

    @staticmethod
    def read(kept: "Stream | _FiledStream") -> Stream:
        """Returns the arrays of a kept stream; those of a slot are read into new ones."""
        return kept.read() if isinstance(kept, _FiledStream) else kept

    def _has_room(self, batch: int) -> bool:
        return self._in_memory is None or batch < self._in_memory

    def _filed(self, stream: Stream) -> "_FiledStream":
        if self._file is None:
            self._file = cast(BufferedRandom, tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        if self._free_slots:
            slot = self._free_slots.pop()
        else:
            slot = self._slot_count
            self._slot_count += 1
        filed = _FiledStream(self._file, slot * self._slot_bytes)
        weakref.finalize(filed, self._free_slots.append, slot)
        try:
            filed.write(stream)
        except OSError as error:
            place = self._folder or tempfile.gettempdir()
            raise OSError(
                error.errno,
                f"posttrain.prune(stream_budget=): a file of activations cannot be written in {place} "
                f"({os.strerror(error.errno or 0)}); make room there, or give a larger budget",
            ) from error
        return filed


class _FiledStream:
    """A stream in a slot of a file; typed PRNG keys, which are small, stay in memory."""

    def __init__(self, file: BufferedRandom, start: int) -> None:
        self._file = file
        self._start = start
        self._fields: dict[Any, _Field] = {}
        self._keys: Stream = {}

    def write(self, stream: Stream) -> None:
        """Writes the arrays of a stream into the slot."""
        offset = 0
        self._file.seek(self._start)
        for variable, array in stream.items():
            if _is_key(array):
                self._keys[variable] = array
                continue
            host_array = np.ascontiguousarray(array)
            self._fields[variable] = _Field(host_array.dtype, np.shape(array), offset)
            self._file.write(host_array.reshape(-1).view(np.uint8).data)
            offset += host_array.nbytes
        self._file.flush()

    def read(self) -> Stream:
        """Returns the stream, in new NumPy arrays."""
        stream = dict(self._keys)
        for variable, field in self._fields.items():
            array = np.empty(field.shape, field.dtype)
            self._file.seek(self._start + field.offset)
            if self._file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
                raise OSError("posttrain.prune: the file of activations has become shorter")
            stream[variable] = array
        return stream


def _is_key(array: Any) -> bool:
    dtype = getattr(array, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _on_host(array: Any) -> Any:
    # A copy: on CPU a view would hold the array.
    return array if _is_key(array) else np.array(array)
