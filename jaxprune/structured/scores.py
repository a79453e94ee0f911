"""Scores of units, computed from the scores of their weights by any criterion."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import criteria
from jaxprune import masks as masks_lib
from jaxprune.arrays.host_arrays import Blockwise
from jaxprune.signals.by_keyword import signals_read_by
from jaxprune.structured.graph.coupled import coupled
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.structured.shrinking.host import run_on_host
from jaxprune.types import Criterion, Params
from jaxprune.units.coupling import Group, Normalize, Over, Reduce

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
    """Returns one score per unit of each group, combined from the scores of the unit's weights.

    Args:
      graph: graph of the function, from `trace`.
      params: tree of arrays, as it was traced.
      criterion: returns scores of weights, higher = keep. Leaves that are never pruned by themselves (biases,
        scales, statistics) count only if the criterion has no scores for any kernel of a group.
      reduce: how the scores of a unit's weights become one number: "sum", "mean", "max", "norm", "absolute"
        (see `coupled`).
      normalize: what the scores of a group are divided by: "none", "mean", "max", "sum", "norm".
      over: which slices of a unit count: "all", "outputs", "scales".
      **signals: signals that the criterion reads, by keyword.

    Returns:
      Name of the group -> array [units].

    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.array([[1.0, 2.0]]), "out": jnp.array([[3.0], [-5.0]])}
    >>> scores(trace(fn, params, jnp.ones((1, 1))), params)
    {'in[1]': array([4., 7.])}
    """
    check_graph("structured.scores", graph, params)
    options: Any = {"reduce": reduce, "normalize": normalize, "over": over}
    pattern = coupled(graph, only=_every_group, inexact="allow", **options)
    unit_scores = pattern.units(by_path(criterion, graph, params, signals))
    return {
        group.name: group_scores
        for group, group_scores in zip(pattern.groups, unit_scores, strict=True)
    }


def _every_group(group: Group) -> bool:
    return True


def by_path(
    criterion: Criterion, graph: Graph, params: Params, signals: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the criterion's scores of weights by path, for NumPy to read; no entry where it has none.

    Args:
      criterion: of weights.
      graph: graph of the function, from `trace`.
      params: tree of arrays, as it was traced.
      signals: what the criterion reads.

    Raises:
      ValueError: if a signal is missing, or scores have not the shape of their weights.
    """
    name = getattr(criterion, "__name__", "criterion")
    missing = [signal for signal in signals_read_by(criterion) if signal not in signals]
    if missing:
        raise ValueError(
            f"structured: {name} reads {missing[0]!r}; give {missing[0]}= (see "
            "jaxprune.signals.gatherers)."
        )
    graph.check(params)
    weight_scores = _evaluate(criterion, jax.tree.map(_zeros_for_key, params), signals)
    scores_by_leaf = masks_lib.beside(params, weight_scores)
    leaves = zip(graph.paths, scores_by_leaf, jax.tree.leaves(params), strict=True)
    for path, leaf_scores, leaf in leaves:
        if leaf_scores is not None and jnp.shape(leaf_scores) != jnp.shape(leaf):
            raise ValueError(
                f"{name}: {path!r} has scores of the shape {jnp.shape(leaf_scores)}, its weights "
                f"{jnp.shape(leaf)}; give one score per weight."
            )
    return {
        path: leaf_scores if isinstance(leaf_scores, Blockwise) else np.asarray(leaf_scores)
        for path, leaf_scores in zip(graph.paths, scores_by_leaf, strict=True)
        if leaf_scores is not None
    }


def _evaluate(criterion: Criterion, params: Params, signals: Mapping[str, Any]) -> Any:
    """Returns the scores: by NumPy where it gives the same numbers, or by one compiled program."""
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(signals)):
        return criterion(params, **signals)

    def score(params_and_signals: Any) -> Any:
        return criterion(params_and_signals[0], **params_and_signals[1])

    host_scores = run_on_host(score, (params, dict(signals)))
    return _compile(criterion)(params, **signals) if host_scores is None else host_scores


def _zeros_for_key(leaf: Any) -> Any:
    """Returns a leaf that a criterion can read: of PRNG keys, zeros, as they have no scores."""
    return jnp.zeros(leaf.shape) if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf


@functools.lru_cache(maxsize=16)
def _compile(criterion: Criterion) -> Criterion:
    """Returns one program for all leaves, instead of one for each shape."""
    return jax.jit(criterion)
