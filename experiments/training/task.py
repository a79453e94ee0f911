"""A task: the data of one training on the device, the model that it is for, and the metrics."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments import config as config_lib
from experiments.training.distillation import Teacher
from jaxprune import data as data_lib

__all__ = [
    "Batches",
    "Scaling",
    "Task",
    "dataset",
    "evaluated",
    "fresh_variables",
    "input_shape",
    "metrics",
    "model_of",
    "scale",
    "tasks",
]

_EVALUATION_BATCH_SIZE = 1000  # examples


class Scaling(NamedTuple):
    """Mean and standard deviation of each channel, of images in [0, 1]; both `[channels]`."""

    mean: jax.Array
    std: jax.Array


class Batches(NamedTuple):
    """Examples for evaluation, `[batches, batch size, ...]`; the label -1 marks those that only fill up."""

    inputs: jax.Array
    labels: jax.Array
    scaling: Scaling | None = None


class Task(NamedTuple):
    """Data of one training.

    Attributes:
      inputs: uint8 training images on the device.
      labels: int32 training labels.
      validation: held-out examples, or `None`.
      test: test examples, to be looked at once a training is over.
      batch_size: examples in one update.
      scaling: of the training images, where inputs are standardised; `None`: they are only brought to [0, 1].
      teacher: whose outputs are the targets in training; `None`: the labels are.
    """

    inputs: jax.Array
    labels: jax.Array
    validation: Batches | None
    test: Batches
    batch_size: int
    scaling: Scaling | None = None
    teacher: Teacher | None = None


def model_of(cfg: ConfigDict) -> Any:
    """Returns the linen module of a config: `model(inputs, train=...)` gives logits."""
    return config_lib.build(
        "model", cfg.model, num_classes=_synthetic_twin(cfg.data.name).num_classes
    )


def input_shape(cfg: ConfigDict) -> tuple[int, ...]:
    """Returns the shape of one example; the data need not have been fetched."""
    return _synthetic_twin(cfg.data.name).input_shape


@functools.cache
def _synthetic_twin(name: str) -> data_lib.Dataset:
    """Returns synthetic data of the same shapes, which need no files."""
    return data_lib.load(f"synthetic_{name.removeprefix('synthetic_')}")


def fresh_variables(model: Any, task: Task, key: jax.Array) -> tuple[Any, Any]:
    """Returns new parameters, and the model's other variables (such as batch statistics).

    Args:
      model: a linen module.
      task: gives the shape of the inputs.
      key: PRNG key of the initialization.
    """
    variables = _initializer(model)(key, scale(task.inputs[:2], task.scaling))
    return variables["params"], {name: tree for name, tree in variables.items() if name != "params"}


@functools.cache
def _initializer(model: Any) -> Any:
    return jax.jit(model.init)


def tasks(cfg: ConfigDict, seed: int) -> list[Task]:
    """Returns the tasks of one seed: one with a random hold-out, or one per fold.

    Args:
      cfg: a valid config.
      seed: seed of the hold-out or of the folds.
    """
    full_dataset = dataset(cfg)
    try:
        if cfg.k_folds:
            splits = list(data_lib.k_folds(full_dataset.train, cfg.k_folds, seed))
        else:
            splits = [data_lib.split(full_dataset.train, cfg.validation, seed)]
    except ValueError as error:
        raise config_lib.UserError(
            f"config.{'k_folds' if cfg.k_folds else 'validation'}: {error}"
        ) from error
    test = _evaluation_batches(full_dataset.test)
    return [_task(cfg, train, validation, test) for train, validation in splits]


def _task(
    cfg: ConfigDict, train: data_lib.Split, validation: data_lib.Split, test: Batches
) -> Task:
    """Returns a task whose images are all scaled by what its own training examples say."""
    scaling = _scaling_of(train, cfg.data.name) if cfg.normalize else None
    validation_batches = _evaluation_batches(validation) if len(validation.labels) else None
    return Task(
        jnp.asarray(train.inputs),
        jnp.asarray(train.labels),
        validation_batches and validation_batches._replace(scaling=scaling),
        test._replace(scaling=scaling),
        _check_batch_size(cfg.data.get("batch_size", 128), len(train.labels)),
        scaling,
    )


def _scaling_of(train: data_lib.Split, data_name: str) -> Scaling:
    mean, std = data_lib.moments(train.inputs)
    if not all(std):
        raise config_lib.UserError(
            f"config.normalize: channel {std.index(0.0)} of the training images of {data_name} is constant, "
            "so that there is nothing to divide by; set it to False."
        )
    return Scaling(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def dataset(cfg: ConfigDict) -> data_lib.Dataset:
    """Returns the data set of a config.

    Raises:
      UserError: it has not been fetched, or what was fetched is not what it should be.
    """
    try:
        full_dataset = data_lib.load(cfg.data.name)
    except (OSError, ValueError) as error:
        raise config_lib.UserError(str(error)) from error
    class_count = full_dataset.num_classes
    for split in (full_dataset.train, full_dataset.test):
        if not len(split.labels):
            raise config_lib.UserError(f"{cfg.data.name}: no examples; fetch the data anew.")
        if split.labels.min() < 0 or split.labels.max() >= class_count:
            raise config_lib.UserError(
                f"{cfg.data.name}: labels from {split.labels.min()} to {split.labels.max()}, where there are "
                f"{class_count} classes; fetch the data anew."
            )
        if tuple(split.inputs.shape[1:]) != input_shape(cfg):
            raise config_lib.UserError(
                f"{cfg.data.name}: images of shape {tuple(split.inputs.shape[1:])}, where {input_shape(cfg)} "
                "is needed; fetch the data anew."
            )
    return full_dataset


def _check_batch_size(batch_size: int, example_count: int) -> int:
    if not 1 <= batch_size <= example_count:
        raise config_lib.UserError(
            f"config.data.batch_size={batch_size}: between 1 and {example_count}, the number of training "
            "examples, is needed."
        )
    return batch_size


def _evaluation_batches(split: data_lib.Split) -> Batches:
    """Returns the examples of a split in batches, the last one filled up."""
    example_count = len(split.labels)
    batch_size = min(example_count, _EVALUATION_BATCH_SIZE)
    padding_count = -example_count % batch_size
    padded_inputs = np.concatenate(
        [split.inputs, np.zeros((padding_count, *split.inputs.shape[1:]), np.uint8)]
    )
    padded_labels = np.concatenate([split.labels, np.full(padding_count, -1, np.int32)])

    def to_batches(examples: np.ndarray) -> jax.Array:
        return jnp.asarray(examples.reshape(-1, batch_size, *examples.shape[1:]))

    return Batches(to_batches(padded_inputs), to_batches(padded_labels))


def scale(inputs: jax.Array, scaling: Scaling | None) -> jax.Array:
    """Returns uint8 images as float32 in [0, 1], or standardised: (x - mean) / std in each channel.

    Args:
      inputs: `[..., channels]`.
      scaling: `None`: they stay in [0, 1].

    >>> image = jnp.array([[[0], [255]]], jnp.uint8)
    >>> scale(image, Scaling(jnp.array([0.5]), jnp.array([0.25]))).ravel().tolist()
    [-2.0, 2.0]
    """
    images = inputs.astype(jnp.float32) / 255.0
    if scaling is None:
        return images
    each_channel = (1,) * (images.ndim - 1) + (-1,)
    return (images - scaling.mean.reshape(each_channel)) / scaling.std.reshape(each_channel)


def metrics(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of cross-entropy and of correct answers over the examples with a label."""
    is_labelled = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    is_correct = (jnp.argmax(logits, -1) == labels) & is_labelled
    return jnp.sum(jnp.where(is_labelled, losses, 0.0)), jnp.sum(is_correct, dtype=jnp.int32)


def evaluated(
    forward: Callable[[jax.Array], jax.Array], batches: Batches
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the sums of loss and of correct answers over all batches, and the number of examples.

    Args:
      forward: takes scaled images, returns logits.
      batches: labelled examples.
    """

    def batch_metrics(batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        inputs, labels = batch
        return metrics(forward(scale(inputs, batches.scaling)), labels)

    losses, correct_counts = jax.lax.map(batch_metrics, (batches.inputs, batches.labels))
    return losses.sum(), correct_counts.sum(), jnp.sum(batches.labels >= 0)
