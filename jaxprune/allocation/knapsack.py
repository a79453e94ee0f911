"""The best choice of one option per leaf under a budget, by dynamic programming."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxprune.trees import differences

__all__ = ["knapsack"]


def knapsack(
    losses: Mapping[str, Sequence[float]],
    costs: Mapping[str, Sequence[float]],
    budget: float,
    *,
    states: int = 10_000,
) -> dict[str, int]:
    r"""Chooses an option for each leaf: the least sum of losses whose costs stay within the budget.

    Dynamic programming over the leaves, with the states that nothing cheaper is better than. It is exact as
    long as there are no more than `states` of them; beyond, it is exact up to `len(losses) / states` of the
    budget, and never above it. It takes leaves x options x states steps.

    Args:
      losses: by leaf, what each of its options loses: the rise of the loss at each sparsity, say.
      costs: by leaf, what each of its options costs; as many, not negative.
      budget: what all may cost together.
      states: that are kept after each leaf.

    Returns:
      The number of the option of each leaf.

    Raises:
      ValueError: if not even the cheapest options are within the budget.

    >>> losses = {"a": [0.0, 1.0, 9.0], "b": [0.0, 2.0, 3.0]}
    >>> costs = {"a": [10.0, 5.0, 1.0], "b": [10.0, 5.0, 1.0]}
    >>> knapsack(losses, costs, budget=6.0)  # 1 + 3 is less than 9 + 2
    {'a': 1, 'b': 2}
    """
    if set(losses) != set(costs):
        raise ValueError(
            f"knapsack: losses and costs must be of the same leaves ({differences(costs, losses)} in costs); "
            "give both for each."
        )
    for name, row in losses.items():
        if len(row) != len(costs[name]):
            raise ValueError(
                f"knapsack: {name!r} has {len(row)} losses and {len(costs[name])} costs; give one of "
                "each for every option."
            )
    if not losses or not budget > 0:
        raise ValueError(f"knapsack(budget={budget}): leaves and a budget above 0 are needed.")
    everything = [x for table in (losses, costs) for row in table.values() for x in row]
    if not all(math.isfinite(x) for x in everything):
        raise ValueError("knapsack: losses and costs must be finite.")
    least = sum(min(row) for row in costs.values())
    if least > budget:
        raise ValueError(
            f"knapsack: the cheapest options cost {least:g}, more than the budget of {budget:g}; give "
            "sparser options or a larger budget."
        )
    cost, loss = np.zeros(1), np.zeros(1)
    came_from = []
    for name in losses:
        pairs = np.add.outer(cost, np.asarray(costs[name])).ravel()
        summed = np.add.outer(loss, np.asarray(losses[name])).ravel()
        order = np.lexsort((summed, pairs))
        order = order[pairs[order] <= budget * (1 + 1e-12)]
        # Of two states the costlier one must lose less to be worth anything.
        before = np.minimum.accumulate(np.append(np.inf, summed[order][:-1]))
        order = order[summed[order] < before]
        order = order[_thinned(pairs[order], budget, states)]
        came_from.append(order)
        cost, loss = pairs[order], summed[order]
    at, found = len(cost) - 1, {}  # the costliest loses least
    for name, order in reversed(list(zip(losses, came_from, strict=True))):
        at, found[name] = (int(i) for i in divmod(order[at], len(losses[name])))
    return {name: found[name] for name in losses}


def _thinned(cost: np.ndarray, budget: float, states: int) -> np.ndarray:
    """At most about so many states: the cheapest, and the costliest of each share of the budget."""
    if len(cost) <= states:
        return np.arange(len(cost))
    share = np.floor(cost / budget * states)
    last = np.append(share[1:] != share[:-1], True)
    last[0] = True
    return np.flatnonzero(last)
