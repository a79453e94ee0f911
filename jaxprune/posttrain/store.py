"""A folder with one file per finished segment, so that the same call goes on where it stopped."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.storage import array_files, sealed
from jaxprune.storage.durable import ENDING, is_abandoned, whole_file
from jaxprune.storage.locks import InUseError, locked

__all__ = ["Store", "fingerprint", "work_folder"]

_KIND = "jaxprune step of a pruning after training"
_VERSION = 1


@contextlib.contextmanager
def work_folder(folder: str | Path | None) -> Iterator[Path | None]:
    """Makes a folder if it is not there, and holds its lock while the block runs; `None` stays `None`.

    Raises:
      BlockingIOError: another process works in it.
    """
    if folder is None:
        yield None
        return
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path / "lock"))
        except InUseError as error:
            raise BlockingIOError(
                f"posttrain.prune(folder={str(path)!r}): it is in use by {error}; wait until that ends, or "
                "give another folder."
            ) from None
        yield path


class Store:
    """A folder of steps, each whole or not there, with checksums.

    A step that was damaged counts as one that was never made. One process at a time may write to a folder:
    see `work_folder`.

    Args:
      folder: made if it is not there.
      identity: text that identifies the run; a folder of another run is refused.

    Raises:
      ValueError: if the folder holds another run, or its record is damaged.
    """

    def __init__(self, folder: str | Path, identity: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        run_file = self.folder / "run.json"
        if not run_file.exists():
            with whole_file(run_file) as file:
                file.write(json.dumps({"identity": identity}).encode())
            return
        try:
            run_record = sealed.parse(sealed.read_bounded(run_file))
        except sealed.DamagedError as error:
            raise ValueError(
                f"posttrain.prune(folder={str(folder)!r}): its run.json is damaged ({error}); give another "
                "folder, or remove this one."
            ) from error
        if not isinstance(run_record, dict) or run_record.get("identity") != identity:
            raise ValueError(
                f"posttrain.prune(folder={str(folder)!r}): it holds a run with other parameters, data or "
                "settings; give another folder, or remove this one."
            )
        for name in (".run.json.*", ".*.npz.*"):  # of processes that were killed in mid-save
            for path in filter(is_abandoned, self.folder.glob(name + ENDING)):
                path.unlink(missing_ok=True)

    def load(self, step: int) -> tuple[dict[str, np.ndarray], Any] | None:
        """Returns the arrays and the notes of a step, or `None` if it is missing or damaged."""
        try:
            stored = array_files.read(self._path(step), kind=_KIND, version=_VERSION)
        except (FileNotFoundError, sealed.DamagedError):
            return None
        return stored.arrays, stored.about

    def save(self, step: int, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> None:
        """Writes the arrays and the notes (JSON) of a step."""
        path = self._path(step)
        array_files.write(path, arrays, kind=_KIND, version=_VERSION, about=notes)

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:05d}.npz"


def fingerprint(texts: Iterable[str], arrays: Iterable[Any]) -> str:
    """Returns a checksum of texts and arrays.

    >>> fingerprint(["a"], [np.ones(2)]) == fingerprint(["a"], [np.zeros(2)])
    False
    """
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
        digest.update(b"\0")
    for array in arrays:
        if jnp.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        host_array = np.ascontiguousarray(array)
        digest.update(f"{host_array.dtype}{host_array.shape}".encode())
        digest.update(host_array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
