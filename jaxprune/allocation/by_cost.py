"""Allocations whose budget is counted in costs, such as operations, instead of weights."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import trees
from jaxprune.allocation.counts import Layers, check_floor, fill_pruned
from jaxprune.parts import factory
from jaxprune.selection.ranks import LOWEST, order_key
from jaxprune.types import Allocation, AnyAllocation, Keep, Params, Sparsity, Units

__all__ = ["at_cost", "cost_budget"]


@factory
def cost_budget(
    costs: Mapping[str, float] | Any, *, power: float = 1.0, at_least: int = 1
) -> Allocation:
    r"""Returns the allocation of one cost budget for all leaves: sparsity is the fraction of cost removed.

    A unit of leaf $l$ costs $c_l$, the leaf's cost over its units. Units are ranked by score over $c_l^p$,
    the greedy order of a knapsack, and the best are kept that the budget pays for; those that are equal at
    the cut are all removed. The best of each layer, as many as its floor says, are paid for first.

    Args:
      costs: of each prunable leaf while it is dense: operations (`jaxprune.metrics.flops`), bytes,
        microseconds. A tree like the parameters, or numbers by path.
      power: $p$; 0 compares scores as they are and only counts the budget in costs.
      at_least: fewest units that a layer keeps, or all that it has, even if the budget pays for fewer; with 0
        it may lose all.

    Returns:
      An allocation. Where a leaf has many contests, each keeps the leaf's count divided by their number,
      rounded down, so that the budget holds.

    Raises:
      ValueError: if `at_least` is negative; when it is used, if a leaf that is pruned has no finite cost
        above 0.

    >>> from jaxprune.types import Units
    >>> params = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0, 4.0])}
    >>> units, costs = jax.tree.map(Units, params), {"a": 10.0, "b": 2.0}
    >>> keep = cost_budget(costs)(params, units, 0.5)
    >>> int(keep["a"].count), int(keep["b"].count)  # 5 per unit of a, 1 per unit of b, 6 in all
    (1, 1)
    >>> keep = cost_budget(costs, at_least=0)(params, units, 0.5)  # by the cost, b has the better ones
    >>> int(keep["a"].count), int(keep["b"].count)
    (0, 2)
    """
    check_floor("cost_budget", at_least)

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        units_by_leaf = trees.beside(params, units)
        priced_units = _priced_units(costs, params, units_by_leaf)
        layers = Layers([leaf_units for _, leaf_units in priced_units])
        unit_costs = [cost / leaf_units.scores.size for cost, leaf_units in priced_units]
        scales = [
            np.float32(max(unit_costs) / unit_cost) ** np.float32(power) for unit_cost in unit_costs
        ]
        keys = [
            _order_keys(leaf_units, scale)
            for (_, leaf_units), scale in zip(priced_units, scales, strict=True)
        ]
        unit_shares = np.array(unit_costs) / sum(cost for cost, _ in priced_units)
        layer_shares = jnp.asarray(layers.repeated(unit_shares), jnp.float32)
        budget = (1 - jnp.asarray(sparsity, jnp.float32)) * jnp.sum(layer_shares * layers.sizes)
        counts = _affordable_counts(
            keys, layers, layer_shares, budget * np.float32(1 + 1e-6), layers.floors(at_least)
        )
        kept = map(Keep, layers.split(counts // layers.contests))
        return fill_pruned(params, units_by_leaf, kept)

    return Allocation(allocate)


@factory
def at_cost(allocation: AnyAllocation, costs: Mapping[str, float] | Any) -> Allocation:
    """Returns another allocation, used at the sparsity that removes the given fraction of the cost.

    With it uniform, ERK and others can be compared at equal operations. The sparsity is found by bisection:
    the kept units cost no more than asked, unless the floors alone cost more.

    Args:
      allocation: the other one; the more it is asked to remove, the less it keeps.
      costs: of each prunable leaf while it is dense, as for `cost_budget`.

    Returns:
      An allocation.

    Raises:
      ValueError: when it is used, if a leaf that is pruned has no finite cost above 0.

    >>> from jaxprune.allocation import uniform
    >>> from jaxprune.types import Units
    >>> params = {"a": jnp.ones(100), "b": jnp.ones(100)}
    >>> costs, units = {"a": 30.0, "b": 10.0}, jax.tree.map(Units, params)
    >>> jax.tree.map(int, at_cost(uniform({"b": 0.0}), costs)(params, units, 0.6))  # 16 of 40 are left
    {'a': 20, 'b': 100}
    """

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        priced_units = _priced_units(costs, params, trees.beside(params, units))
        total_cost = sum(cost for cost, _ in priced_units)
        layers = Layers([leaf_units for _, leaf_units in priced_units])
        layer_shares = layers.repeated(
            [
                np.float32(cost / total_cost / leaf_units.scores.size)
                for cost, leaf_units in priced_units
            ]
        )
        dense_cost = jnp.sum(layer_shares * layers.sizes)
        budget = (1 - jnp.asarray(sparsity, jnp.float32)) * dense_cost * np.float32(1 + 1e-6)

        def cost_at(tried_sparsity: jax.Array) -> Any:
            kept = trees.beside(params, allocation(params, units, tried_sparsity))
            counts = [
                keep.count if isinstance(keep, Keep) else keep for keep in kept if keep is not None
            ]
            return jnp.sum(layer_shares * layers.joined(counts) * layers.contests)

        def halve(_: Any, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bracket
            middle = (low + high) / 2
            too_costly = cost_at(middle) > budget
            return jnp.where(too_costly, middle, low), jnp.where(too_costly, high, middle)

        _, affordable = jax.lax.fori_loop(0, 24, halve, (jnp.float32(0), jnp.float32(1)))
        dense_too_costly = cost_at(jnp.float32(0)) > budget
        return allocation(params, units, jnp.where(dense_too_costly, affordable, 0.0))

    if not isinstance(allocation, Allocation) or allocation.shares is None:
        return Allocation(allocate)
    shares = at_cost(Allocation(allocation.shares), costs).allocate
    return Allocation(allocate, shares, allocation.at_least)


def _priced_units(costs: Any, params: Params, units_by_leaf: list[Any]) -> list[tuple[Any, Units]]:
    """Returns cost and units of each leaf that is pruned; refuses costs that are not finite or above 0."""
    paths = trees.paths(params)
    leaf_costs = _costs_of_leaves(costs, params, paths)
    for path, cost, leaf_units in zip(paths, leaf_costs, units_by_leaf, strict=True):
        if leaf_units is not None and (cost is None or not 0 < cost < np.inf):
            raise ValueError(
                f"costs: the leaf {path!r} has {cost}; a finite number above 0 is needed for each leaf that "
                "is pruned."
            )
    pairs = zip(leaf_costs, units_by_leaf, strict=True)
    return [(cost, leaf_units) for cost, leaf_units in pairs if leaf_units is not None]


def _costs_of_leaves(costs: Any, params: Params, paths: list[str]) -> list[Any]:
    """Returns the cost of each leaf, from numbers by path or from a tree; `None` where there is none."""
    if isinstance(costs, Mapping) and any(path in costs for path in paths):
        return [costs.get(path) for path in paths]
    return trees.beside(params, costs)


def _order_keys(leaf_units: Units, scale: Any) -> jax.Array:
    """Returns scores by cost as integers in the same order; the lowest where nothing may be kept."""
    keys = order_key(leaf_units.scores.astype(jnp.float32) * scale)
    allowed_keys = keys if leaf_units.among is None else jnp.where(leaf_units.among, keys, LOWEST)
    return _to_unsigned(allowed_keys)


def _to_unsigned(keys: jax.Array) -> jax.Array:
    """Returns signed integers as unsigned ones in the same order."""
    return jax.lax.bitcast_convert_type(keys, jnp.uint32) ^ np.uint32(1 << 31)


def _affordable_counts(
    keys: list[jax.Array],
    layers: Layers,
    layer_shares: jax.Array,
    budget: jax.Array,
    floors: jax.Array,
) -> jax.Array:
    """Returns per layer its count of units above the lowest threshold that the budget pays for.

    Args:
      keys: scores by cost of the units of each leaf, uint32.
      layers: of the leaves.
      layer_shares: cost of one unit of each layer, as a share of the cost of all.
      budget: share of the cost that may be kept.
      floors: counts that are kept of each layer at least.
    """

    def count_above(threshold: jax.Array) -> jax.Array:
        counts = []
        for leaf_keys, leaf_units in zip(keys, layers.units, strict=True):
            unit_axes = tuple(
                axis for axis in range(leaf_keys.ndim) if axis not in leaf_units.layers
            )
            counts.append(jnp.sum(leaf_keys > threshold, unit_axes, jnp.int32))
        return jnp.maximum(layers.joined(counts), floors)

    def set_bit(i: jax.Array, threshold: jax.Array) -> jax.Array:
        # The highest threshold that costs too much, bit by bit; one above it does not.
        raised = threshold | (np.uint32(1) << (31 - i).astype(jnp.uint32))
        too_costly = jnp.sum(count_above(raised - 1) * layer_shares) > budget
        return jnp.where(too_costly, raised, threshold)

    return count_above(jax.lax.fori_loop(0, 32, set_bit, jnp.uint32(0)))
