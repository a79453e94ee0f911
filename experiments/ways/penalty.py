"""Proximal steps of a penalty, which land weights on exact zeros."""

from typing import Any

import jaxprune as jp
from experiments.config import UserError, build
from experiments.training.setup import Setup
from experiments.ways.recipe import Recipe, refuse_average, refuse_early_stop

__all__ = ["recipe"]


def recipe(setup: Setup, spec: Any, where: str, **supplied: Any) -> Recipe:
    """Returns the recipe of a penalty.

    Args:
      setup: of the config.
      spec: the part.
      where: in the config, to blame.
      **supplied: arguments that the part leaves out, such as its strength.

    Raises:
      UserError: it is stopped early or averaged, or the optimizer says no learning rate.
    """
    refuse_early_stop(setup, where)
    refuse_average(setup)
    penalty = build("penalty", spec, offered={"axes": setup.axes}, **supplied)
    proximal = jp.proximal(
        setup.optimizer,
        penalty,
        _step_size(setup, where),
        preconditioner=build("preconditioner", setup.cfg.preconditioner),
        prunable=setup.prunable,
        axes=setup.axes,
    )
    transform = jp.recorded(proximal)
    described = "as sparse as it says" if "sparsity" in spec else "how sparse it becomes is learned"
    return Recipe(
        lambda key: transform,
        settled=None,
        learned=True,
        recorded=True,
        described=f"penalty: {described}",
    )


def _step_size(setup: Setup, where: str) -> Any:
    """The learning rate; with momentum, what a gradient moves a weight by in the end."""
    optimizer = setup.cfg.optimizer
    rate = optimizer.get("learning_rate")
    momentum = optimizer.get("momentum") or 0.0
    if rate is None:
        raise UserError(f"{where}: proximal steps need config.optimizer.learning_rate.")
    if isinstance(rate, int | float):
        return rate / (1 - momentum)
    schedule = build("learning_rate", rate)
    return lambda step: schedule(step) / (1 - momentum)
