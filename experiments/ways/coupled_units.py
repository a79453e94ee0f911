"""What is read from the program of a config's model: the axes of its kernels, and its coupled units."""

import dataclasses
import functools
from typing import Any

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError
from experiments.training.task import input_shape, model_of
from jaxprune.coupling import Normalize, Over, Reduce
from jaxprune.parts import factory
from jaxprune.structured.pattern import Inexact
from jaxprune.types import Pattern

__all__ = ["axes_of", "coupled", "graph_of", "model_axes", "with_units"]


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


def with_units(cfg: ConfigDict, method: Any, where: str) -> Any:
    """Returns a method whose pattern, if it is one of `coupled`, has been found in the model."""
    asked = getattr(getattr(method, "pattern", None), "made_by", None)
    if asked is None or asked.factory is not coupled:
        return method
    options = {name: value or None for name, value in asked.arguments.items()}
    graph = graph_of(model_of(cfg), input_shape(cfg))
    try:
        found = jp.structured.coupled(graph, within="params", **options)
    except ValueError as e:
        raise UserError(f"{where}: {e}") from e
    return dataclasses.replace(method, pattern=found)


def axes_of(cfg: ConfigDict) -> Any:
    """Which axes of the model's parameters are inputs, outputs and layers: what `axes=` takes."""
    return model_axes(model_of(cfg), input_shape(cfg))


@functools.lru_cache(maxsize=4)
def model_axes(model: Any, shape: tuple[int, ...]) -> Any:
    """The same of a linen module, for one input of this shape, without examples."""
    x = jax.ShapeDtypeStruct((1, *shape), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    rest = {name: tree for name, tree in variables.items() if name != "params"}

    def forward(params: Any, rest: Any, x: Any) -> Any:
        return model.apply({"params": params, **rest}, x, train=False)

    return jp.axes(forward, variables["params"], rest, x)


@functools.lru_cache(maxsize=4)
def graph_of(model: Any, shape: tuple[int, ...]) -> Any:
    """The groups of a model, in evaluation mode; found once for all seeds, and before there are data.

    Args:
      model: a linen module.
      shape: of one input, without examples.
    """
    x = jax.ShapeDtypeStruct((1, *shape), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return jp.structured.trace(lambda v, x: model.apply(v, x, train=False), variables, x)
