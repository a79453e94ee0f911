"""The order in which a training sees the examples: epochs of permutations, drawn from a seed."""

import functools

import numpy as np

__all__ = ["batches"]


def batches(seed: tuple[int, ...], examples: int, size: int, start: int, stop: int) -> np.ndarray:
    """Returns the examples of the batches `start` to `stop`: one row of int64 indices per batch.

    Each epoch is a permutation of its own, drawn from (seed, epoch) alone; examples that do not fill a
    batch at its end are left out.

    Args:
      seed: seed of the permutations.
      examples: number of examples.
      size: number of examples in a batch.
      start: index of the first batch, counted over all epochs.
      stop: index behind the last batch.

    >>> batches((0,), examples=4, size=2, start=1, stop=3).shape
    (2, 2)
    """
    batches_per_epoch = examples // size
    example_rows = []
    for step in range(start, stop):
        epoch, batch_index = divmod(step, batches_per_epoch)
        example_rows.append(
            _epoch_permutation(seed, epoch, examples)[batch_index * size : (batch_index + 1) * size]
        )
    return np.stack(example_rows)


@functools.lru_cache(maxsize=4)
def _epoch_permutation(seed: tuple[int, ...], epoch: int, example_count: int) -> np.ndarray:
    return np.random.default_rng([*seed, epoch]).permutation(example_count)
