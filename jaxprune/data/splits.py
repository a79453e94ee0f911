"""Validation data: a random hold-out, or every fold in turn."""

from collections.abc import Iterator
from numbers import Integral

import numpy as np

from jaxprune.data.arrays import Split


def split(examples: Split, validation: int, seed: int) -> tuple[Split, Split]:
    """Returns the examples in two parts: those for training, and a random part that is held out.

    Args:
      examples: what to divide, usually `dataset.train`.
      validation: number of examples to hold out.
      seed: equal seeds give equal divisions.

    Returns:
      (training, validation): two `Split`s, each in the original order.

    Raises:
      ValueError: there are not enough examples to leave at least one for training.

    >>> train, validation = split(Split(np.arange(10), np.arange(10)), 3, seed=0)
    >>> len(train.labels), len(validation.labels)
    (7, 3)
    """
    number_of_examples = len(examples.labels)
    if not (isinstance(validation, Integral) and 0 <= validation < number_of_examples):
        raise ValueError(
            f"split: cannot hold out {validation} of {number_of_examples} examples; validation must be "
            f"a whole number between 0 and {number_of_examples - 1}."
        )
    return _divide(examples, _permutation(number_of_examples, seed)[:validation])


def k_folds(examples: Split, k: int, seed: int) -> Iterator[tuple[Split, Split]]:
    """Returns the divisions of k-fold cross-validation: each random fold is held out once.

    Args:
      examples: what to divide, usually `dataset.train`.
      k: number of folds; their sizes differ by at most one.
      seed: equal seeds give equal folds.

    Returns:
      An iterator of `k` pairs (train, validation); every example is in one validation split.

    Raises:
      ValueError: `k` is below two, or there are fewer examples than folds.

    >>> [len(fold.labels) for _, fold in k_folds(Split(np.arange(10), np.arange(10)), 3, seed=0)]
    [4, 3, 3]
    """
    number_of_examples = len(examples.labels)
    if not (isinstance(k, Integral) and 2 <= k <= number_of_examples):
        raise ValueError(
            f"k_folds: cannot make {k} folds of {number_of_examples} examples; k must be a whole number "
            f"between 2 and {number_of_examples}."
        )
    return (
        _divide(examples, fold)
        for fold in np.array_split(_permutation(number_of_examples, seed), k)
    )


def _permutation(number_of_examples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(number_of_examples)


def _divide(examples: Split, held_out_indices: np.ndarray) -> tuple[Split, Split]:
    is_held_out = np.zeros(len(examples.labels), bool)
    is_held_out[held_out_indices] = True
    training = Split(*(array[~is_held_out] for array in examples))
    held_out = Split(*(array[is_held_out] for array in examples))
    return training, held_out
