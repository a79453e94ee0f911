"""The order in which a training sees the examples."""

import numpy as np

from experiments.training.example_order import batches


def test_batches_are_epochs_of_permutations():
    rows = batches((3, 1), examples=10, size=3, start=0, stop=6)
    assert rows.shape == (6, 3)
    for epoch in (rows[:3], rows[3:]):
        assert len(set(epoch.ravel().tolist())) == 9
    assert not np.array_equal(rows[:3], rows[3:])
    assert np.array_equal(batches((3, 1), 10, 3, 4, 6), rows[4:])
    assert not np.array_equal(batches((3, 2), 10, 3, 0, 6), rows)
