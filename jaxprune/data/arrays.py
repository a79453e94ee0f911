"""Data sets as numpy arrays, and their verified cache on disk."""

import hashlib
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Split(NamedTuple):
    """Examples in a fixed order.

    Attributes:
      inputs: uint8 images, [examples, height, width, channels].
      labels: int32 classes, [examples].
    """

    inputs: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A data set for image classification, entirely in memory.

    Attributes:
      train: the training examples; hold some out with `split` or `k_folds`.
      test: the test examples.
      num_classes: labels are below this.
      input_shape: height, width, channels.
      mean: of each channel over the training inputs, scaled to [0, 1].
      std: standard deviation, likewise.
    """

    train: Split
    test: Split
    num_classes: int
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def dataset(train: Split, test: Split, num_classes: int) -> Dataset:
    """Completes two splits to a `Dataset` by measuring the training inputs."""
    mean, std = moments(train.inputs)
    return Dataset(train, test, num_classes, train.inputs.shape[1:], mean, std)


def moments(inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel of uint8 images, scaled to [0, 1].

    >>> moments(np.array([[[[0, 51]]], [[[255, 51]]]], np.uint8))
    ((0.5, 0.2), (0.5, 0.0))
    """
    values = np.arange(256)
    mean, std = [], []
    for channel in range(inputs.shape[-1]):
        count = np.zeros(256, np.int64)
        for part in np.array_split(inputs[..., channel], 1 + len(inputs) // 4096):
            count += np.bincount(part.ravel(), minlength=256)
        average = (values @ count) / count.sum()
        mean.append(float(average / 255))
        std.append(float(np.sqrt(((values - average) ** 2 @ count) / count.sum()) / 255))
    return tuple(mean), tuple(std)


def sha256(array: np.ndarray) -> str:
    """Returns the SHA-256 of an array's type, shape and elements."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write(path: Path, data: Dataset) -> None:
    """Writes a data set to an `.npz` file in one step: a kill leaves the old file or none."""
    arrays: dict[str, Any] = _arrays(data)
    checksums = np.array([sha256(array) for array in arrays.values()])
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez(file, checksums=checksums, **arrays)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path) -> Dataset | None:
    """Reads what `write` wrote; None if there is nothing, or it is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        checksums = arrays.pop("checksums").tolist()
        if checksums != [sha256(array) for array in arrays.values()]:
            return None
        train = Split(arrays["train_inputs"], arrays["train_labels"])
        test = Split(arrays["test_inputs"], arrays["test_labels"])
        mean, std = (tuple(arrays[name].tolist()) for name in ("mean", "std"))
        return Dataset(train, test, int(arrays["num_classes"]), train.inputs.shape[1:], mean, std)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error):
        return None


def _arrays(data: Dataset) -> dict[str, np.ndarray]:
    return {
        "train_inputs": data.train.inputs,
        "train_labels": data.train.labels,
        "test_inputs": data.test.inputs,
        "test_labels": data.test.labels,
        "num_classes": np.array(data.num_classes),
        "mean": np.array(data.mean),
        "std": np.array(data.std),
    }
