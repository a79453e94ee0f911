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
    r"""Returns the option of each leaf with the least sum of losses whose costs stay within the budget.

    Dynamic programming over the leaves; a state is a cost and the least loss that it buys. It is exact as
    long as there are no more than `states` of them; beyond, it is exact up to `len(losses) / states` of the
    budget, and never above it. It takes leaves x options x states steps.

    Args:
      losses: by leaf, what each of its options loses: the rise of the loss at each sparsity, say.
      costs: by leaf, what each of its options costs; as many, not negative.
      budget: what all may cost together, in the unit of the costs.
      states: number of states that are kept after each leaf.

    Returns:
      The index of the option of each leaf.

    Raises:
      ValueError: if losses and costs are not of the same options, something is not finite, or not even the
        cheapest options are within the budget.

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
    values = [value for table in (losses, costs) for row in table.values() for value in row]
    if not all(math.isfinite(value) for value in values):
        raise ValueError("knapsack: losses and costs must be finite.")
    least = sum(min(row) for row in costs.values())
    if least > budget:
        raise ValueError(
            f"knapsack: the cheapest options cost {least:g}, more than the budget of {budget:g}; give "
            "sparser options or a larger budget."
        )
    state_costs = np.zeros(1)
    state_losses = np.zeros(1)
    kept_pairs = []  # of each leaf, the pairs (state before, option) that are states after it, as one index
    for name in losses:
        pair_costs = np.add.outer(state_costs, np.asarray(costs[name])).ravel()
        pair_losses = np.add.outer(state_losses, np.asarray(losses[name])).ravel()
        order = np.lexsort((pair_losses, pair_costs))
        order = order[pair_costs[order] <= budget * (1 + 1e-12)]
        # Of two states the costlier one must lose less to be worth anything.
        least_before = np.minimum.accumulate(np.append(np.inf, pair_losses[order][:-1]))
        order = order[pair_losses[order] < least_before]
        order = order[_thin_out(pair_costs[order], budget, states)]
        kept_pairs.append(order)
        state_costs = pair_costs[order]
        state_losses = pair_losses[order]
    state_index = len(state_costs) - 1  # the costliest loses least
    options = {}
    for name, order in reversed(list(zip(losses, kept_pairs, strict=True))):
        state_index, option = divmod(int(order[state_index]), len(losses[name]))
        options[name] = option
    return {name: options[name] for name in losses}


def _thin_out(state_costs: np.ndarray, budget: float, states: int) -> np.ndarray:
    """Returns the indices of about `states` states: the cheapest, and the costliest of each share."""
    if len(state_costs) <= states:
        return np.arange(len(state_costs))
    shares = np.floor(state_costs / budget * states)
    is_last = np.append(shares[1:] != shares[:-1], True)
    is_last[0] = True
    return np.flatnonzero(is_last)
