"""A task: the data of one training on the device, the model that it is for, and the measures."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments import config as config_lib
from jaxprune import data as data_lib

__all__ = [
    "Batches",
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

_EVALUATED = 1000  # examples in one evaluation batch


class Batches(NamedTuple):
    """Examples for evaluation: `[batches, size, ...]`, filled up with the label -1."""

    inputs: jax.Array
    labels: jax.Array


class Task(NamedTuple):
    """What a run learns from.

    Attributes:
      inputs: uint8 training images on the device.
      labels: int32 training labels.
      validation: held-out examples, or `None`.
      test: test examples, to be looked at once a training is over.
      batch_size: examples in one update.
    """

    inputs: jax.Array
    labels: jax.Array
    validation: Batches | None
    test: Batches
    batch_size: int


def model_of(cfg: ConfigDict) -> Any:
    """Returns the linen module of a config: `model(inputs, train=...)` gives logits."""
    return config_lib.build("model", cfg.model, num_classes=_twin(cfg.data.name).num_classes)


def input_shape(cfg: ConfigDict) -> tuple[int, ...]:
    """Returns the shape of one example; the data need not have been fetched."""
    return _twin(cfg.data.name).input_shape


@functools.cache
def _twin(name: str) -> data_lib.Dataset:
    """Synthetic data of the same shapes, at no cost."""
    return data_lib.load(f"synthetic_{name.removeprefix('synthetic_')}")


def fresh_variables(model: Any, task: Task, key: jax.Array) -> tuple[Any, Any]:
    """Returns new parameters, and the model's other variables (such as batch statistics)."""
    variables = _initializer(model)(key, scale(task.inputs[:2]))
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


@functools.cache
def _initializer(model: Any) -> Any:
    return jax.jit(model.init)


def tasks(cfg: ConfigDict, seed: int) -> list[Task]:
    """Returns the tasks of one seed: one with a random hold-out, or one per fold."""
    loaded = dataset(cfg)
    try:
        if cfg.k_folds:
            divided = list(data_lib.k_folds(loaded.train, cfg.k_folds, seed))
        else:
            divided = [data_lib.split(loaded.train, cfg.validation, seed)]
    except ValueError as e:
        raise config_lib.UserError(
            f"config.{'k_folds' if cfg.k_folds else 'validation'}: {e}"
        ) from e
    size, test = cfg.data.get("batch_size", 128), _batches(loaded.test)
    return [
        Task(
            jnp.asarray(train.inputs),
            jnp.asarray(train.labels),
            _batches(validation) if len(validation.labels) else None,
            test,
            _checked(size, len(train.labels)),
        )
        for train, validation in divided
    ]


def dataset(cfg: ConfigDict) -> data_lib.Dataset:
    """Returns the data set of a config.

    Raises:
      UserError: it has not been fetched, or what was fetched is not what it should be.
    """
    try:
        loaded = data_lib.load(cfg.data.name)
    except (OSError, ValueError) as e:
        raise config_lib.UserError(str(e)) from e
    classes = loaded.num_classes
    for part in (loaded.train, loaded.test):
        if not len(part.labels):
            raise config_lib.UserError(f"{cfg.data.name}: no examples; fetch the data anew.")
        if part.labels.min() < 0 or part.labels.max() >= classes:
            raise config_lib.UserError(
                f"{cfg.data.name}: labels from {part.labels.min()} to {part.labels.max()}, where there are "
                f"{classes} classes; fetch the data anew."
            )
        if tuple(part.inputs.shape[1:]) != input_shape(cfg):
            raise config_lib.UserError(
                f"{cfg.data.name}: images of shape {tuple(part.inputs.shape[1:])}, where {input_shape(cfg)} "
                "is needed; fetch the data anew."
            )
    return loaded


def _checked(batch_size: int, examples: int) -> int:
    if not 1 <= batch_size <= examples:
        raise config_lib.UserError(
            f"config.data.batch_size={batch_size}: between 1 and {examples}, the number of training "
            "examples, is needed."
        )
    return batch_size


def _batches(split: data_lib.Split) -> Batches:
    total = len(split.labels)
    size = min(total, _EVALUATED)
    fill = -total % size
    inputs = np.concatenate([split.inputs, np.zeros((fill, *split.inputs.shape[1:]), np.uint8)])
    labels = np.concatenate([split.labels, np.full(fill, -1, np.int32)])
    whole = lambda x: jnp.asarray(x.reshape(-1, size, *x.shape[1:]))
    return Batches(whole(inputs), whole(labels))


def scale(inputs: jax.Array) -> jax.Array:
    """Returns uint8 images as float32 in [0, 1]."""
    return inputs.astype(jnp.float32) / 255.0


def metrics(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of cross-entropy and of correct answers over the examples with a label."""
    valid = labels >= 0
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    correct = (jnp.argmax(logits, -1) == labels) & valid
    return jnp.sum(jnp.where(valid, loss, 0.0)), jnp.sum(correct, dtype=jnp.int32)


def evaluated(
    forward: Callable[[jax.Array], jax.Array], batches: Batches
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the sums of `metrics` of a function of images over all batches, and the number of examples."""
    one = lambda batch: metrics(forward(scale(batch.inputs)), batch.labels)
    loss, correct = jax.lax.map(one, batches)
    return loss.sum(), correct.sum(), jnp.sum(batches.labels >= 0)
