"""Scores of the leaves of which signals say something."""

from collections.abc import Callable
from typing import Any

import jax

from jaxprune.types import Params, Scores

__all__ = ["score_known"]


def score_known(score: Callable[..., Any], params: Params, *signals: Params) -> Scores:
    """Returns the scores of each leaf, `None` where a signal says nothing: it cannot be pruned by that.

    Args:
      score: (weights, entry of each signal) -> scores of one leaf.
      params: tree of arrays.
      *signals: trees like it, `None` where nothing is known.

    >>> score_known(lambda w, g: w * g, {"b": 1.0, "w": 2.0}, {"b": None, "w": 3.0})
    {'b': None, 'w': 6.0}
    """

    def score_leaf(weights: Any, *entries: Any) -> Any:
        return None if any(entry is None for entry in entries) else score(weights, *entries)

    return jax.tree.map(score_leaf, params, *signals)
