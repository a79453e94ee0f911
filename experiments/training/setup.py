"""A config resolved: what is built of it once, and serves all seeds and contestants of a run."""

import dataclasses
import functools
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import build
from experiments.config.sections import check_tables
from experiments.training.augment import Augment, augment_of
from experiments.training.task import input_shape, model_of

__all__ = ["Setup", "model_axes", "setup"]


@dataclasses.dataclass(frozen=True)
class Setup:
    """Model, optimizer and augmentation of a run.

    Attributes:
      cfg: the config, for its numbers.
      model: a linen module; `model(inputs, train=...)` gives logits.
      input_shape: of one example; the data need not have been fetched.
      optimizer: what `config.optimizer` names, before anything is put around it.
      augment: augmentation of training images; `None` for none.
    """

    cfg: ConfigDict
    model: Any
    input_shape: tuple[int, ...]
    optimizer: optax.GradientTransformation
    augment: Augment | None

    @property
    def prunable(self) -> str | None:
        """Regular expression for the paths of prunable leaves; `None`: all but biases and statistics."""
        return self.cfg.prunable or None

    @functools.cached_property
    def prunable_names(self) -> list[str]:
        """Returns the paths of the model's prunable leaves."""
        params = jax.eval_shape(self.model.init, jax.random.key(0), self.example())["params"]
        masks = jax.eval_shape(lambda params: jp.masks.make(params, self.prunable), params)
        named_masks = zip(jp.masks.paths(params), jp.masks.beside(params, masks), strict=True)
        return [path for path, mask in named_masks if mask is not None]

    @functools.cached_property
    def axes(self) -> Any:
        """Returns which axes of the model's parameters are inputs, outputs and layers, for `axes=`."""
        return model_axes(self.model, self.input_shape)

    def example(self, count: int = 1) -> jax.ShapeDtypeStruct:
        """Returns the shape and dtype of a batch of `count` examples, scaled."""
        return jax.ShapeDtypeStruct((count, *self.input_shape), "float32")


def setup(cfg: ConfigDict) -> Setup:
    """Builds the model and the optimizer of a config.

    Args:
      cfg: a valid config.

    Raises:
      UserError: a part refuses its arguments, or one of its dicts gives a leaf two values.
    """
    resolved = Setup(
        cfg,
        model_of(cfg),
        input_shape(cfg),
        build("optimizer", cfg.optimizer),
        augment_of(cfg),
    )
    for name, value in cfg.items():
        if name not in ("paper", "model", "data", "optimizer", "gate_optimizer"):
            check_tables(value, lambda: resolved.prunable_names, f"config.{name}")
    return resolved


@functools.lru_cache(maxsize=4)
def model_axes(model: Any, shape: tuple[int, ...]) -> Any:
    """Returns the axes of a linen module's parameters (`jaxprune.axes`).

    Args:
      model: a linen module.
      shape: of one input, without the axis of examples.

    Returns:
      A tree like the parameters, for `axes=`.
    """
    inputs = jax.ShapeDtypeStruct((1, *shape), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)
    other_variables = {name: tree for name, tree in variables.items() if name != "params"}

    def forward(params: Any, other_variables: Any, inputs: Any) -> Any:
        return model.apply({"params": params, **other_variables}, inputs, train=False)

    return jp.axes(forward, variables["params"], other_variables, inputs)
