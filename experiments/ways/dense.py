"""No way at all: the optimizer alone, the baseline of everything."""

from typing import Any

from experiments.config.fields import DENSE
from experiments.training.setup import Setup
from experiments.ways.recipe import Recipe, averaged

__all__ = ["recipe"]


def recipe(setup: Setup, spec: None = None, where: str = "config.optimizer") -> Recipe:
    """Returns the recipe of dense training.

    Args:
      setup: of the config.
      spec: there is no part for it.
      where: in the config, to blame.
    """
    optimizer = averaged(setup, setup.optimizer)
    return Recipe(lambda key: optimizer, _no_masks, described=f"{DENSE}: no method")


def _no_masks(*_: Any) -> None:
    return None
