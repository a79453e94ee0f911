import numpy as np
import pytest

from jaxprune.data import Split, k_folds, split

EXAMPLES = Split(np.arange(23) * 2, np.arange(23, dtype=np.int32))


@pytest.mark.parametrize("validation", [0, 1, 10, 22])
def test_split_divides_without_loss_and_keeps_order(validation):
    train, held = split(EXAMPLES, validation, seed=0)
    assert len(held.labels) == validation
    assert sorted([*train.labels, *held.labels]) == list(range(23))
    for part in (train, held):
        assert (part.inputs == part.labels * 2).all()
        assert (np.diff(part.labels) > 0).all()


def test_split_is_random_and_repeatable():
    labels = [split(EXAMPLES, 10, seed)[1].labels.tolist() for seed in (0, 0, 1)]
    assert labels[0] == labels[1] != labels[2]
    assert labels[0] != list(range(10))


@pytest.mark.parametrize("k", [2, 3, 5, 23])
def test_k_folds_validate_every_example_once(k):
    folds = list(k_folds(EXAMPLES, k, seed=0))
    held = [fold.labels for _, fold in folds]
    assert len(folds) == k
    assert sorted(np.concatenate(held)) == list(range(23))
    assert max(map(len, held)) - min(map(len, held)) <= 1
    for train, fold in folds:
        assert sorted([*train.labels, *fold.labels]) == list(range(23))
        assert (train.inputs == train.labels * 2).all()


def test_k_folds_depend_on_the_seed():
    first, same, other = (next(k_folds(EXAMPLES, 4, seed))[1].labels.tolist() for seed in (0, 0, 1))
    assert first == same != other


@pytest.mark.parametrize("validation", [-1, 23, 24, 0.25])
def test_split_refuses_impossible_sizes(validation):
    with pytest.raises(ValueError, match=f"hold out {validation} of 23 .* between 0 and 22"):
        split(EXAMPLES, validation, seed=0)


@pytest.mark.parametrize("k", [-1, 0, 1, 24, 2.5])
def test_k_folds_refuse_impossible_numbers_at_once(k):
    with pytest.raises(ValueError, match=f"{k} folds of 23 .* between 2 and 23"):
        k_folds(EXAMPLES, k, seed=0)
