"""What has been done, in a folder, one file per segment, so that the same call goes on where it stopped."""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Store", "fingerprint"]


class Store:
    """A folder of steps. Each is written beside its place and moved there, under a name with its checksum.

    A step that does not fit its checksum counts as one that was never made.

    Args:
      folder: made if it is not there.
      identity: what the run is, as text; a folder of another run is refused.
    """

    def __init__(self, folder: str | Path, identity: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self.folder / "run.json"
        if known.exists():
            theirs = json.loads(known.read_text(encoding="utf-8")).get("identity")
            if theirs != identity:
                raise ValueError(
                    f"posttrain.prune(folder={str(folder)!r}): it holds a run with other parameters, data or "
                    "settings; give another folder, or remove this one."
                )
        else:
            _write(known, json.dumps({"identity": identity}).encode())

    def load(self, step: int) -> tuple[dict[str, np.ndarray], Any] | None:
        """The arrays and the notes of a step, or `None`."""
        for path in sorted(self.folder.glob(f"{step:05d}.*.npz")):
            data = path.read_bytes()
            if path.name.split(".")[1] != _checksum(data):
                continue
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            notes = json.loads(arrays.pop("notes").tobytes())
            return arrays, notes
        return None

    def save(self, step: int, arrays: Mapping[str, np.ndarray], notes: Any) -> None:
        """Writes the arrays and the notes (JSON) of a step."""
        text = np.frombuffer(json.dumps(notes).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **{"notes": text, **arrays})  # type: ignore[arg-type]
        data = buffer.getvalue()
        _write(self.folder / f"{step:05d}.{_checksum(data)}.npz", data)


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def fingerprint(texts: Iterable[str], arrays: Iterable[Any]) -> str:
    """Returns a checksum of texts and arrays.

    >>> fingerprint(["a"], [np.ones(2)]) == fingerprint(["a"], [np.zeros(2)])
    False
    """
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode())
        found.update(b"\0")
    for array in arrays:
        if jnp.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        host = np.ascontiguousarray(array)
        found.update(f"{host.dtype}{host.shape}".encode())
        found.update(host.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
