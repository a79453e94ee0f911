"""Masks that follow a method while the network trains."""

from typing import Any

import jaxprune as jp
from experiments.config import build
from experiments.training.setup import Setup
from experiments.ways.coupled_units import with_units
from experiments.ways.recipe import Recipe, refuse_average

__all__ = ["recipe"]


def recipe(setup: Setup, spec: Any, where: str, **supplied: Any) -> Recipe:
    """Returns the recipe of a method: `jaxprune.sparsify`, or `straight_through`, around the optimizer.

    Args:
      setup: of the config.
      spec: a part, or a method as it is.
      where: in the config, to blame.
      **supplied: arguments that the part leaves out, such as its sparsity.
    """
    refuse_average(setup)
    method = spec if isinstance(spec, jp.Method) else build("method", spec, **supplied)
    method = with_units(setup, method, where)
    enforce = jp.straight_through if method.straight_through else jp.sparsify

    def transform(key: Any) -> Any:
        options = {"prunable": setup.prunable, "axes": setup.axes}
        return jp.recorded(enforce(setup.optimizer, method, key=key, **options))

    return Recipe(transform, method=method, settled=method.end + 1, recorded=True)
