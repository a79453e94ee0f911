"""Synthetic twins: data of the real shape and type that can be learnt, made from a seed."""

import zlib

import numpy as np

from jaxprune.data import catalogue
from jaxprune.data.arrays import Dataset, Split, dataset

CELL = 4  # a template is smooth: squares of this many pixels
SHIFT = 2  # pixels, in each direction
NOISE = 48.0  # standard deviation, in grey levels


def twin(
    name: str, *, train: int = catalogue.TWIN_TRAIN, test: int = 512, seed: int = 0
) -> Dataset:
    """Returns an imitation of a data set: each class has a template, its examples are noisy shifted copies.

    Args:
      name: the data set to imitate, such as "mnist".
      train: number of training examples.
      test: number of test examples.
      seed: another seed gives other templates and examples.

    Returns:
      A `Dataset` with the shapes and types of the real one, and balanced classes.

    Raises:
      ValueError: the name is unknown.

    >>> twin("mnist").train.inputs.shape
    (2048, 28, 28, 1)
    """
    entry = catalogue.find(name)
    generator = np.random.default_rng([zlib.crc32(name.encode()), seed])
    height, width, channels = entry.input_shape
    coarse_templates = generator.uniform(
        0, 255, (entry.num_classes, height // CELL, width // CELL, channels)
    )
    templates = coarse_templates.repeat(CELL, axis=1).repeat(CELL, axis=2)
    splits = (_examples(generator, templates, size) for size in (train, test))
    return dataset(*splits, num_classes=entry.num_classes)


def _examples(generator: np.random.Generator, templates: np.ndarray, size: int) -> Split:
    classes, height, width, _ = templates.shape
    labels = generator.permutation(np.arange(size) % classes)
    rows_down, columns_right = generator.integers(-SHIFT, SHIFT + 1, (2, size, 1))
    rows = (np.arange(height) + rows_down) % height
    columns = (np.arange(width) + columns_right) % width
    shifted_templates = templates[labels[:, None, None], rows[:, :, None], columns[:, None, :]]
    noisy_images = shifted_templates + generator.normal(0, NOISE, shifted_templates.shape)
    return Split(np.clip(noisy_images, 0, 255).astype(np.uint8), labels.astype(np.int32))
