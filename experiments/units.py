"""Coupled units of a config's model: `pattern=part("coupled")` in place of a pattern of single leaves."""

import functools
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError
from experiments.task import input_shape, model_of
from jaxprune.coupling import Normalize, Over, Reduce

__all__ = ["Units", "coupled", "graph_of", "with_units"]


class Units(NamedTuple):
    """A pattern that is known once the model is: arguments of `jaxprune.structured.coupled`."""

    only: str
    reduce: Reduce
    normalize: Normalize
    over: Over


def coupled(
    only: str = "", reduce: Reduce = "sum", normalize: Normalize = "none", over: Over = "all"
) -> Units:
    """Whole filters, neurons, heads, ... wherever they run through the model's parameters.

    Args:
      only: regular expression, searched in the `path[axis]` that a group runs along; "": all groups.
      reduce, normalize, over: how weights' scores become those of units (see `jaxprune.structured.coupled`).
    """
    return Units(only, reduce, normalize, over)


def with_units(cfg: ConfigDict, method: Any, where: str) -> Any:
    """Returns a method whose pattern, if it is `Units`, has been found in the model."""
    if not isinstance(method, jp.Method) or not isinstance(method.pattern, Units):
        return method
    graph, (only, *how) = graph_of(cfg), method.pattern
    reduce, normalize, over = how
    try:
        found = jp.structured.coupled(
            graph, within="params", only=only or None, reduce=reduce, normalize=normalize, over=over
        )
    except ValueError as e:
        raise UserError(f"{where}: {e}") from e
    return method._replace(pattern=found)


def graph_of(cfg: ConfigDict) -> Any:
    """The groups of a config's model, in evaluation mode; its data need not have been fetched."""
    return _graph(model_of(cfg), input_shape(cfg))


@functools.lru_cache(maxsize=4)
def _graph(model: Any, shape: tuple[int, ...]) -> Any:
    x = jax.ShapeDtypeStruct((1, *shape), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return jp.structured.trace(lambda v, x: model.apply(v, x, train=False), variables, x)
