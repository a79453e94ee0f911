"""What a task makes of images: hold-out, standardisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import UserError, config, part, validate
from experiments.training import task as task_lib
from experiments.training.task import Scaling, evaluated, scale, tasks
from experiments.ways.oneshot import examples
from jaxprune.data import Split


def settings(**fields):
    return config(
        data=part("synthetic_cifar10", batch_size=16),
        model=part("resnet20"),
        optimizer=part("sgd", learning_rate=0.1),
        **{"validation": 32, **fields},
    )


@pytest.mark.parametrize("fields", [{}, {"validation": 0, "k_folds": 2}])
def test_the_training_split_is_standardised_by_its_own_moments(fields):
    for task in tasks(settings(normalize=True, **fields), seed=3):
        images = scale(task.inputs, task.scaling)
        np.testing.assert_allclose(images.mean((0, 1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(images.std((0, 1, 2)), 1, rtol=1e-4)
        for batches in (task.validation, task.test):
            for moment, training_moment in zip(batches.scaling, task.scaling, strict=True):
                np.testing.assert_array_equal(moment, training_moment)


def test_held_out_examples_do_not_enter_the_moments():
    first, second = (tasks(settings(normalize=True), seed)[0].scaling for seed in (0, 1))
    assert np.any(np.asarray(first.mean) != np.asarray(second.mean))


def test_evaluation_and_signals_see_standardised_images():
    task = tasks(settings(normalize=True), seed=0)[0]
    seen = []

    def forward(images):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), images)
        return jnp.zeros((len(images), 10))

    jax.block_until_ready(evaluated(forward, task.validation))
    jax.effects_barrier()
    np.testing.assert_array_equal(
        seen[0], scale(task.validation.inputs[0], task.scaling), strict=True
    )
    (images, _), *_ = examples(task, jax.random.key(0), 512)
    assert abs(float(images.mean())) < 0.2, "in [0, 1] the mean is a half"


def test_images_stay_in_the_unit_interval_unless_it_is_asked_for():
    task = tasks(settings(), seed=0)[0]
    assert task.scaling is None
    assert task.validation.scaling is None
    images = scale(task.inputs, task.scaling)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_a_constant_channel_is_refused(monkeypatch):
    constant = Split(np.full((8, 2, 2, 1), 7, np.uint8), np.zeros(8, np.int32))
    with pytest.raises(UserError, match=r"config\.normalize: channel 0 .* of mnist is constant"):
        task_lib._scaling_of(constant, "mnist")


def test_only_true_and_false_are_accepted():
    with pytest.raises(UserError, match=r"config\.normalize=1: found int, bool is needed"):
        validate(settings(normalize=1))


def test_the_formula():
    images = np.array([[[[0, 255]]]], np.uint8)
    scaled = scale(images, Scaling(jnp.array([0.5, 0.25]), jnp.array([0.5, 0.75])))
    np.testing.assert_allclose(scaled.ravel(), [-1, 1])
