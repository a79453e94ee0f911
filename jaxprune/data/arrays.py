"""Data sets as numpy arrays, and their verified cache on disk."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprune import array_files, sealed

_KIND = "jaxprune data set"
_VERSION = 2  # 1 had checksums in the order of its arrays


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
    told = f"{array.dtype.str}{array.shape}".encode()
    return sealed.sha256(told, np.ascontiguousarray(array).data)


def write(path: Path, data: Dataset) -> None:
    """Writes a data set to an `.npz` file in one step: a kill leaves the old file or none."""
    array_files.write(path, _arrays(data), kind=_KIND, version=_VERSION)


def read(path: Path) -> Dataset | None:
    """Reads what `write` wrote; None if there is nothing, or it is damaged."""
    try:
        arrays = array_files.read(path, kind=_KIND, version=_VERSION).arrays
        train = Split(arrays["train_inputs"], arrays["train_labels"])
        test = Split(arrays["test_inputs"], arrays["test_labels"])
        mean, std = (tuple(arrays[name].tolist()) for name in ("mean", "std"))
        return Dataset(train, test, int(arrays["num_classes"]), train.inputs.shape[1:], mean, std)
    except (OSError, KeyError, TypeError, ValueError):
        return None


def check(data: Dataset, input_shape: tuple[int, ...], num_classes: int) -> None:
    """Refuses arrays that no training can use as what they are said to be.

    Raises:
      ValueError: a split is empty, its inputs or labels have another type or shape, or a label is no class.
    """
    if data.num_classes != num_classes:
        raise ValueError(f"there are {data.num_classes} classes, not {num_classes}")
    for part in ("train", "test"):
        inputs, labels = getattr(data, part)
        if inputs.dtype != np.uint8 or inputs.shape[1:] != tuple(input_shape):
            raise ValueError(
                f"{part} inputs are {inputs.dtype}{list(inputs.shape)}, not uint8 images of "
                f"{'x'.join(map(str, input_shape))}"
            )
        if labels.dtype != np.int32 or labels.shape != inputs.shape[:1]:
            raise ValueError(
                f"{part} labels are {labels.dtype}{list(labels.shape)}, not int32 numbers for "
                f"{len(inputs)} inputs"
            )
        if not len(labels):
            raise ValueError(f"there are no {part} examples")
        strange = labels[(labels < 0) | (labels >= num_classes)]
        if len(strange):
            raise ValueError(
                f"{len(strange)} {part} labels are no classes from 0 to {num_classes - 1}, such as "
                f"{strange[0]}"
            )


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
