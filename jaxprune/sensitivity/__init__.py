"""Sensitivity analysis: each layer alone is pruned to several sparsities, and the network is measured.

`sensitivity` measures the losses. `search` finds the sparsities of all layers for a budget of cost, or for a
tolerated rise of the loss.
"""

from jaxprune.sensitivity.analysis import Sensitivity as Sensitivity
from jaxprune.sensitivity.analysis import sensitivity as sensitivity
from jaxprune.sensitivity.searching import SearchResult as SearchResult
from jaxprune.sensitivity.searching import search as search

__all__ = ["SearchResult", "Sensitivity", "search", "sensitivity"]


def __dir__() -> list[str]:
    return sorted(__all__)
