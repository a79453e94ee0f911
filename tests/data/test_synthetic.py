import numpy as np
import pytest

from jaxprune.data import NAMES, catalogue, load
from jaxprune.data.synthetic import twin

TWINS = [name for name in NAMES if name.startswith("synthetic_")]


def nearest_mean(train, test):
    """Accuracy of the simplest classifier: the class whose mean training image is nearest."""
    flat = lambda split: split.inputs.reshape(len(split.inputs), -1).astype(np.float32)
    means = np.stack([flat(train)[train.labels == c].mean(0) for c in range(10)])
    distance = (means**2).sum(1) - 2 * flat(test) @ means.T
    return (distance.argmin(1) == test.labels).mean()


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_has_the_shapes_and_types_of_its_original(name):
    data = load(name)
    assert data.input_shape == catalogue.find(name).input_shape
    assert data.num_classes == 10
    assert len(data.mean) == len(data.std) == data.input_shape[-1]
    for split, size in ((data.train, 2048), (data.test, 512)):
        assert split.inputs.shape == (size, *data.input_shape)
        assert split.inputs.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert set(np.bincount(split.labels)) <= {size // 10, size // 10 + 1}


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_twin_can_be_learnt_from_its_inputs_only(name):
    data = twin(name)
    assert nearest_mean(data.train, data.test) > 0.9
    shuffled = data.test._replace(labels=np.random.default_rng(0).permutation(data.test.labels))
    assert nearest_mean(data.train, shuffled) < 0.25


def test_a_twin_is_the_same_each_time_and_differs_by_seed_and_name():
    same, again = twin("mnist", train=20, test=10), twin("mnist", train=20, test=10)
    np.testing.assert_array_equal(same.train.inputs, again.train.inputs)
    np.testing.assert_array_equal(same.test.labels, again.test.labels)
    for other in (twin("mnist", train=20, test=10, seed=1), twin("fashion_mnist", train=20)):
        assert (other.train.inputs != same.train.inputs).mean() > 0.5


def test_training_and_test_examples_are_different():
    data = twin("mnist", train=100, test=100)
    train = {image.tobytes() for image in data.train.inputs}
    assert not train & {image.tobytes() for image in data.test.inputs}
