"""What units are worth, by any criterion of weights."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import criteria
from jaxprune import masks as masks_lib
from jaxprune.coupling import Normalize, Over, Reduce
from jaxprune.host_arrays import Blockwise
from jaxprune.signals.gatherers import signals_read_by
from jaxprune.structured.given import check_graph
from jaxprune.structured.graph import Graph
from jaxprune.structured.host import run_on_host
from jaxprune.structured.pattern import coupled
from jaxprune.types import Criterion, Params

__all__ = ["by_path", "scores"]

_MAGNITUDE = criteria.magnitude


def scores(
    graph: Graph,
    params: Params,
    *,
    criterion: Criterion = _MAGNITUDE,
    reduce: Reduce = "sum",
    normalize: Normalize = "none",
    over: Over = "all",
    **signals: Any,
) -> dict[str, np.ndarray]:
    """Returns one score per unit, for each group by name: what its slices of all kernels are worth together.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      criterion: of weights. Leaves that are never pruned by themselves (biases, scales, statistics) count
        where a criterion has no scores for any kernel of a group.
      reduce, normalize, over: how the scores of a unit's weights become one number (see `coupled`).
      **signals: what the criterion reads.
    """
    check_graph("structured.scores", graph, params)
    every = lambda group: True
    options: Any = {"reduce": reduce, "normalize": normalize, "over": over}
    pattern = coupled(graph, only=every, inexact="allow", **options)
    found = pattern.units(by_path(criterion, graph, params, signals))
    return {group.name: own for group, own in zip(pattern.groups, found, strict=True)}


def by_path(
    criterion: Criterion, graph: Graph, params: Params, signals: Mapping[str, Any]
) -> dict[str, Any]:
    """The criterion's scores of weights, for NumPy to read, by path; none where it has none."""
    name = getattr(criterion, "__name__", "criterion")
    missing = [signal for signal in signals_read_by(criterion) if signal not in signals]
    if missing:
        raise ValueError(
            f"structured: {name} reads {missing[0]!r}; give {missing[0]}= (see "
            "jaxprune.signals.gatherers)."
        )
    graph.check(params)
    found = masks_lib.beside(params, _scored(criterion, jax.tree.map(_number, params), signals))
    for path, s, leaf in zip(graph.paths, found, jax.tree.leaves(params), strict=True):
        if s is not None and jnp.shape(s) != jnp.shape(leaf):
            raise ValueError(
                f"{name}: {path!r} has scores of the shape {jnp.shape(s)}, its weights {jnp.shape(leaf)}; "
                "give one score per weight."
            )
    pairs = zip(graph.paths, found, strict=True)
    stored = lambda s: s if isinstance(s, Blockwise) else np.asarray(s)
    return {path: stored(s) for path, s in pairs if s is not None}


def _scored(criterion: Criterion, params: Params, signals: Mapping[str, Any]) -> Any:
    """The criterion's scores: by NumPy where it gives the same numbers, or by one compiled program."""
    if not all(hasattr(x, "dtype") for x in jax.tree.leaves(signals)):
        return criterion(params, **signals)
    found = run_on_host(lambda given: criterion(given[0], **given[1]), (params, dict(signals)))
    return _compiled(criterion)(params, **signals) if found is None else found


def _number(x: Any) -> Any:
    """A leaf that a criterion can read: PRNG keys have no scores."""
    return jnp.zeros(x.shape) if jnp.issubdtype(x.dtype, jax.dtypes.extended) else x


@functools.lru_cache(maxsize=16)
def _compiled(criterion: Criterion) -> Criterion:
    """One program for all leaves, instead of one for each shape."""
    return jax.jit(criterion)
