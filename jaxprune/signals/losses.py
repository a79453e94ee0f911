"""Losses of a network's outputs: what a signal needs that looks between outputs and loss."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.types import Params

__all__ = ["Apply", "Loss", "OutputLoss", "check_function", "loss_of_outputs", "scalar"]

Loss = Callable[[Params, Any], jax.Array]  # (params, batch) -> the mean loss over the batch
Apply = Callable[[Params, Any], Any]  # (params, batch) -> outputs
OutputLoss = Callable[[Any, Any], jax.Array]  # (outputs, batch) -> the mean loss over the batch


def loss_of_outputs(apply: Apply, output_loss: OutputLoss, *, temperature: float = 1.0) -> Loss:
    r"""Returns the loss `output_loss(apply(params, batch) / temperature, batch)` of parameters and a batch.

    Calls with equal arguments return equal losses, for which signals are compiled once.

    Args:
      apply: (params, batch) -> outputs of the network, such as logits; a tree of arrays.
      output_loss: (outputs, batch) -> the mean loss over the batch's leading axis, a scalar.
      temperature: $T$, by which outputs are divided. GraSP's authors take 200: `jaxprune.at_init.grasp`.

    >>> apply = lambda params, x: params["w"] * x
    >>> loss = loss_of_outputs(apply, lambda outputs, x: (outputs**2).mean(), temperature=2.0)
    >>> float(loss({"w": 3.0}, jax.numpy.array([2.0])))
    9.0
    """
    if not temperature > 0:
        raise ValueError(
            f"loss_of_outputs(temperature={temperature}): a number above 0 is needed; 1 leaves outputs alone."
        )
    return _LossOfOutputs(apply, output_loss, float(temperature))


def check_function(who: str, params: Params, **functions: Any) -> None:
    """Refuses what is no function, and parameters in its place.

    Args:
      who: the signal.
      params: tree of arrays.
      **functions: the loss, or the network, by the name of its argument.
    """
    named = {name: (function, checks.FUNCTION) for name, function in functions.items()}
    checks.check(who, **named, params=(params, checks.TREE))


def scalar(value: Any) -> jax.Array:
    """The loss of a batch, if it is one number.

    Raises:
      ValueError: if it is an array of several.
    """
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
