"""Validation data: a random hold-out, or every fold in turn."""

from collections.abc import Iterator

import numpy as np

from jaxprune.data.arrays import Split


def split(examples: Split, validation: int, seed: int) -> tuple[Split, Split]:
    """Holds out a random part of the examples.

    Args:
      examples: what to divide, usually `dataset.train`.
      validation: how many examples to hold out.
      seed: equal seeds give equal divisions.

    Returns:
      The rest and the held-out examples, each in the order that they had.

    Raises:
      ValueError: there are not enough examples to leave at least one for training.

    >>> train, validation = split(Split(np.arange(10), np.arange(10)), 3, seed=0)
    >>> len(train.labels), len(validation.labels)
    (7, 3)
    """
    total = len(examples.labels)
    if not 0 <= validation < total:
        raise ValueError(
            f"split: cannot hold out {validation} of {total} examples; validation must be "
            f"between 0 and {total - 1}."
        )
    return _divide(examples, _permutation(total, seed)[:validation])


def k_folds(examples: Split, k: int, seed: int) -> Iterator[tuple[Split, Split]]:
    """Divides the examples at random into folds, and holds out each in turn.

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
    total = len(examples.labels)
    if not 2 <= k <= total:
        raise ValueError(
            f"k_folds: cannot make {k} folds of {total} examples; k must be between 2 and {total}."
        )
    return (_divide(examples, fold) for fold in np.array_split(_permutation(total, seed), k))


def _permutation(total: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(total)


def _divide(examples: Split, held: np.ndarray) -> tuple[Split, Split]:
    out = np.zeros(len(examples.labels), bool)
    out[held] = True
    return Split(*(a[~out] for a in examples)), Split(*(a[out] for a in examples))
