"""Losses of a network's outputs, and checks of the functions that signals are given."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.trees.alike import shape_of
from jaxprune.types import Params

__all__ = ["Apply", "Loss", "OutputLoss", "check_function", "loss_of_outputs", "scalar"]

Loss = Callable[[Params, Any], jax.Array]  # (params, batch) -> the mean loss over the batch
Apply = Callable[[Params, Any], Any]  # (params, batch) -> outputs
OutputLoss = Callable[[Any, Any], jax.Array]  # (outputs, batch) -> the mean loss over the batch


def loss_of_outputs(apply: Apply, output_loss: OutputLoss, *, temperature: float = 1.0) -> Loss:
    r"""Returns the loss `output_loss(apply(params, batch) / temperature, batch)` of parameters and a batch.

    Calls with equal arguments return losses that compare equal, so signals compile only once for them.

    Args:
      apply: (params, batch) -> outputs of the network, such as logits; a tree of arrays.
      output_loss: (outputs, batch) -> the mean loss over the batch's leading axis, a scalar.
      temperature: $T$, by which outputs are divided; above 0. GraSP's authors take 200:
        `jaxprune.at_init.grasp`.

    Returns:
      (params, batch) -> the loss, a scalar.

    Raises:
      ValueError: `temperature` is not above 0.
      TypeError: an argument is of the wrong kind.

    >>> apply = lambda params, x: params["w"] * x
    >>> loss = loss_of_outputs(apply, lambda outputs, x: (outputs**2).mean(), temperature=2.0)
    >>> float(loss({"w": 3.0}, jax.numpy.array([2.0])))
    9.0
    """
    checks.check(
        "loss_of_outputs",
        apply=(apply, checks.FUNCTION),
        output_loss=(output_loss, checks.FUNCTION),
        temperature=(temperature, checks.NUMBER),
    )
    if not temperature > 0:
        raise ValueError(
            f"loss_of_outputs(temperature={temperature}): a number above 0 is needed; 1 leaves outputs alone."
        )
    return _LossOfOutputs(apply, output_loss, float(temperature))


def check_function(who: str, params: Params, **functions: Any) -> None:
    """Raises `TypeError` if a function is none, or parameters stand in its place.

    Args:
      who: name of the signal, for errors.
      params: tree of arrays.
      **functions: the loss, or the network, by the name of its argument.
    """
    functions_to_check = {name: (function, checks.FUNCTION) for name, function in functions.items()}
    checks.check(who, **functions_to_check, params=(params, checks.TREE))


def scalar(value: Any) -> jax.Array:
    """Returns the loss of a batch if it is a scalar.

    Raises:
      ValueError: if it is an array of several.
      TypeError: if it is no array.
    """
    if shape_of(value) is None:
        raise TypeError(
            f"loss: it returned a {type(value).__name__}, and a scalar is needed; return the mean over the "
            "batch alone, without auxiliary values."
        )
    if jnp.shape(value) != ():
        raise ValueError(
            f"loss: it returned an array of the shape {jnp.shape(value)}, and a scalar is needed; return the "
            "mean over the batch."
        )
    return value


@dataclasses.dataclass(frozen=True)
class _LossOfOutputs:
    apply: Apply
    output_loss: OutputLoss
    temperature: float

    def __call__(self, params: Params, batch: Any) -> jax.Array:
        outputs = self.apply(params, batch)
        if self.temperature != 1:
            outputs = jax.tree.map(lambda x: x / self.temperature, outputs)
        return self.output_loss(outputs, batch)
