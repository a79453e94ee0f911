"""What is read from the program of a config's model: the axes of its kernels, and its coupled units."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError
from experiments.task import input_shape, model_of
from jaxprune.coupling import Normalize, Over, Reduce

__all__ = ["Units", "axes_of", "coupled", "graph_of", "with_units"]


class Units(NamedTuple):
    """A pattern that is known once the model is: arguments of `jaxprune.structured.coupled`."""

    only: str
    exclude: str
    reduce: Reduce
    normalize: Normalize
    over: Over


def coupled(
    only: str = "",
    exclude: str = "",
    reduce: Reduce = "sum",
    normalize: Normalize = "none",
    over: Over = "all",
) -> Units:
    """Whole filters, neurons, heads, ... wherever they run through the model's parameters.

    Args:
      only: regular expression, searched in the `path[axis]` that a group runs along; "": all groups.
      exclude: likewise, of groups that stay whole; "": none.
      reduce, normalize, over: how weights' scores become those of units (see `jaxprune.structured.coupled`).
    """
    return Units(only, exclude, reduce, normalize, over)


def with_units(cfg: ConfigDict, method: Any, where: str) -> Any:
    """Returns a method whose pattern, if it is `Units`, has been found in the model."""
    if not isinstance(method, jp.Method) or not isinstance(method.pattern, Units):
        return method
    graph, units = graph_of(model_of(cfg), input_shape(cfg)), method.pattern._asdict()
    try:
        found = jp.structured.coupled(
            graph, within="params", **{k: v or None for k, v in units.items()}
        )
    except ValueError as e:
        raise UserError(f"{where}: {e}") from e
    return dataclasses.replace(method, pattern=found)


def axes_of(cfg: ConfigDict) -> Any:
    """Which axes of the model's parameters are inputs, outputs and layers: what `axes=` takes."""
    return _axes_of(model_of(cfg), input_shape(cfg))


@functools.lru_cache(maxsize=4)
def _axes_of(model: Any, shape: tuple[int, ...]) -> Any:
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
