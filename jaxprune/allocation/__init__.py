"""Allocations: how many units each layer keeps, `(params, units, sparsity) -> survivors per contest`.

Counts are integers. A sparsity is read to seven decimals, and of `n` units `round(n * sparsity)` are
removed, half up, in integer arithmetic: 0.9 of 10**8 weights is 90,000,000, whether it comes as a Python
float or as a traced float32.
"""

from jaxprune.allocation.by_cost import at_cost as at_cost
from jaxprune.allocation.by_cost import cost_budget as cost_budget
from jaxprune.allocation.by_leaf import by_path as by_path
from jaxprune.allocation.by_leaf import uniform as uniform
from jaxprune.allocation.by_leaf import uniform_plus as uniform_plus
from jaxprune.allocation.by_number import removing as removing
from jaxprune.allocation.by_score import global_budget as global_budget
from jaxprune.allocation.by_score import owl as owl
from jaxprune.allocation.by_score import threshold as threshold
from jaxprune.allocation.by_shape import erk as erk
from jaxprune.allocation.counts import survivors as survivors
from jaxprune.allocation.knapsack import knapsack as knapsack

__all__ = [
    "at_cost",
    "by_path",
    "cost_budget",
    "erk",
    "global_budget",
    "knapsack",
    "owl",
    "removing",
    "survivors",
    "threshold",
    "uniform",
    "uniform_plus",
]


def __dir__() -> list[str]:
    return sorted(__all__)
