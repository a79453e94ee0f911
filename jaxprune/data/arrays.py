"""Data sets as numpy arrays, and their verified cache on disk."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxprune.storage import array_files, sealed

_KIND = "jaxprune data set"
_VERSION = 2  # 1 had checksums in the order of its arrays


class Split(NamedTuple):
    """Examples in a fixed order.

    Attributes:
      inputs: uint8 images, [examples, height, width, channels].
      labels: int32 classes, [examples].

    >>> Split(np.zeros((5, 28, 28, 1), np.uint8), np.zeros(5, np.int32)).inputs.shape
    (5, 28, 28, 1)
    """

    inputs: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A data set for image classification, entirely in memory.

    Attributes:
      train: the training examples; hold some out with `split` or `k_folds`.
      test: the test examples.
      num_classes: number of classes; labels are below it.
      input_shape: height, width, channels.
      mean: mean of each channel over the training inputs, scaled to [0, 1].
      std: standard deviation of each channel, likewise.
    """

    train: Split
    test: Split
    num_classes: int
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def dataset(train: Split, test: Split, num_classes: int) -> Dataset:
    """Returns a `Dataset` of two splits, with mean and deviation of the training inputs."""
    mean, std = moments(train.inputs)
    return Dataset(train, test, num_classes, train.inputs.shape[1:], mean, std)


def moments(inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel of uint8 images, scaled to [0, 1].

    Args:
      inputs: uint8, `[..., channels]`.

    Returns:
      (means, standard deviations): two tuples with a float for each channel.

    >>> moments(np.array([[[[0, 51]]], [[[255, 51]]]], np.uint8))
    ((0.5, 0.2), (0.5, 0.0))
    """
    grey_levels = np.arange(256)
    means = []
    deviations = []
    for channel in range(inputs.shape[-1]):
        level_counts = np.zeros(256, np.int64)
        for pixels in np.array_split(inputs[..., channel], 1 + len(inputs) // 4096):
            level_counts += np.bincount(pixels.ravel(), minlength=256)
        # Sums of integers, exact: the same numbers on every processor.
        count = int(level_counts.sum())
        total = int(grey_levels @ level_counts)
        squares = int(grey_levels**2 @ level_counts)
        means.append(total / (255 * count))
        deviations.append(math.sqrt((count * squares - total**2) / count**2) / 255)
    return tuple(means), tuple(deviations)


def sha256(array: np.ndarray) -> str:
    """Returns the SHA-256 of an array's type, shape and elements."""
    type_and_shape = f"{array.dtype.str}{array.shape}".encode()
    return sealed.sha256(type_and_shape, np.ascontiguousarray(array).data)


def write(path: Path, data: Dataset) -> None:
    """Writes a data set to an `.npz` file in one step: a kill leaves the old file or none."""
    array_files.write(path, _arrays(data), kind=_KIND, version=_VERSION)


def read(path: Path) -> Dataset | None:
    """Returns the data set that `write` wrote; None if there is nothing, or it is damaged."""
    try:
        arrays = array_files.read(path, kind=_KIND, version=_VERSION).arrays
        train = Split(arrays["train_inputs"], arrays["train_labels"])
        test = Split(arrays["test_inputs"], arrays["test_labels"])
        mean, std = (tuple(arrays[name].tolist()) for name in ("mean", "std"))
        return Dataset(train, test, int(arrays["num_classes"]), train.inputs.shape[1:], mean, std)
    except (OSError, KeyError, TypeError, ValueError):
        return None


def check(data: Dataset, input_shape: tuple[int, ...], num_classes: int) -> None:
    """Raises an error where arrays are not the images and labels that they are said to be.

    Raises:
      ValueError: a split is empty, its inputs or labels have another type or shape, or a label is no class.
    """
    if data.num_classes != num_classes:
        raise ValueError(f"there are {data.num_classes} classes, not {num_classes}")
    for split_name in ("train", "test"):
        inputs, labels = getattr(data, split_name)
        if inputs.dtype != np.uint8 or inputs.shape[1:] != tuple(input_shape):
            raise ValueError(
                f"{split_name} inputs are {inputs.dtype}{list(inputs.shape)}, not uint8 images of "
                f"{'x'.join(map(str, input_shape))}"
            )
        if labels.dtype != np.int32 or labels.shape != inputs.shape[:1]:
            raise ValueError(
                f"{split_name} labels are {labels.dtype}{list(labels.shape)}, not int32 numbers for "
                f"{len(inputs)} inputs"
            )
        if not len(labels):
            raise ValueError(f"there are no {split_name} examples")
        wrong_labels = labels[(labels < 0) | (labels >= num_classes)]
        if len(wrong_labels):
            raise ValueError(
                f"{len(wrong_labels)} {split_name} labels are no classes from 0 to {num_classes - 1}, such "
                f"as {wrong_labels[0]}"
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
