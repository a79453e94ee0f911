"""The subgradient of a penalty beside the loss's: weights become small, and hardly one becomes zero."""

from typing import Any

import jax
import optax

import jaxprune as jp
from experiments.config import UserError, build
from experiments.training.setup import Setup
from experiments.training.trainer import Trainer, TrainState
from experiments.ways.recipe import Recipe, refuse_average

__all__ = ["recipe"]


def recipe(setup: Setup, spec: Any, where: str, **supplied: Any) -> Recipe:
    """Returns the recipe of a penalty's subgradient, which leaves no masks.

    Args:
      setup: of the config.
      spec: the part of a penalty.
      where: in the config, to blame.
      **supplied: arguments that the part leaves out, such as its strength.

    Raises:
      UserError: it is averaged, or the penalty has no subgradient.
    """
    refuse_average(setup)
    penalty = build("penalty", spec, offered={"axes": setup.axes}, **supplied)
    try:
        slope = jp.add_penalty(penalty, prunable=setup.prunable, axes=setup.axes)
    except ValueError as e:
        raise UserError(f"{where}: {e}") from e
    transform = optax.chain(slope, setup.optimizer)

    def zeros_of(trainer: Trainer, state: TrainState, network: Any, steps: int) -> Any:
        prunable = jp.masks.make(network, setup.prunable, axes=setup.axes)
        return jax.tree.map(lambda w, m: m if m is None else w != 0, network, prunable)

    described = "as sparse as it says" if "sparsity" in spec else "how sparse it becomes is learned"
    return Recipe(lambda key: transform, zeros_of, described=f"subgradient: {described}")
