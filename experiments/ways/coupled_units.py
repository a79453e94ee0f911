"""Coupled units of a config's model: filters, neurons, heads, found in its program."""

import dataclasses
import functools
from typing import Any

import jax

import jaxprune as jp
from experiments.config import UserError
from experiments.training.setup import Setup
from jaxprune.parts import factory
from jaxprune.structured.graph.coupled import Inexact
from jaxprune.types import Pattern
from jaxprune.units.coupling import Normalize, Over, Reduce

__all__ = ["coupled", "graph_of", "with_units"]


@factory
def coupled(
    only: str = "",
    exclude: str = "",
    reduce: Reduce = "sum",
    normalize: Normalize = "none",
    over: Over = "all",
    inexact: Inexact = "skip",
) -> Pattern:
    """Whole filters, neurons, heads, ... wherever they run through the model's parameters.

    What it returns stands for a pattern that is known once the model is: `with_units` finds it.

    Args:
      only: regular expression, searched in the `path[axis]` that a group runs along; "": all groups.
      exclude: likewise, of groups that stay whole; "": none.
      reduce, normalize, over: how weights' scores become those of units (see `jaxprune.structured.coupled`).
      inexact: groups that are not exact are left out, "skip", or taken all the same, "allow".
    """
    return Pattern(_unknown, _unknown, _unknown, _unknown)


def _unknown(*_: Any) -> Any:
    raise UserError(
        "coupled: its units are found in a model by experiments.ways.coupled_units.with_units."
    )


def with_units(setup: Setup, method: Any, where: str) -> Any:
    """Returns a method whose pattern, if it is one of `coupled`, has been found in the model.

    Args:
      setup: of the config.
      method: a method, or `None`.
      where: in the config, to blame.

    Raises:
      UserError: no group of the model is meant.
    """
    call = getattr(getattr(method, "pattern", None), "made_by", None)
    if call is None or call.factory is not coupled:
        return method
    options = {name: value or None for name, value in call.arguments.items()}
    graph = graph_of(setup.model, setup.input_shape)
    try:
        pattern = jp.structured.coupled(graph, within="params", **options)  # type: ignore[arg-type]
    except ValueError as e:
        raise UserError(f"{where}: {e}") from e
    return dataclasses.replace(method, pattern=pattern)


@functools.lru_cache(maxsize=4)
def graph_of(model: Any, shape: tuple[int, ...]) -> Any:
    """The groups of a model, in evaluation mode; found once for all seeds, and before there are data.

    Args:
      model: a linen module.
      shape: of one input, without examples.
    """
    inputs = jax.ShapeDtypeStruct((1, *shape), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), inputs)

    def forward(variables: Any, inputs: Any) -> Any:
        return model.apply(variables, inputs, train=False)

    return jp.structured.trace(forward, variables, inputs)
