"""Sensitivity analysis: prunes one layer at a time to several sparsities, and measures the network's loss.

`sensitivity` measures the losses. `search` chooses a sparsity for each layer, within a budget of cost or a
tolerated rise of the loss.
"""

from jaxprune.sensitivity.analysis import Sensitivity as Sensitivity
from jaxprune.sensitivity.analysis import sensitivity as sensitivity
from jaxprune.sensitivity.searching import SearchResult as SearchResult
from jaxprune.sensitivity.searching import search as search

__all__ = ["SearchResult", "Sensitivity", "search", "sensitivity"]


def __dir__() -> list[str]:
    return sorted(__all__)
