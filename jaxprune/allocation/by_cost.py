"""Allocations whose budget is counted in costs, such as operations, instead of weights."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import trees
from jaxprune.allocation.counts import Layers, check_floor
from jaxprune.parts import factory
from jaxprune.ranks import LOWEST, order_key
from jaxprune.types import Allocation, AnyAllocation, Keep, Params, Sparsity, Units

__all__ = ["at_cost", "cost_budget"]


@factory
def cost_budget(
    costs: Mapping[str, float] | Any, *, power: float = 1.0, at_least: int = 1
) -> Allocation:
    r"""The sparsity is the fraction of the cost that goes; leaves share one budget of it.

    A unit of leaf $l$ costs $c_l$, the leaf's cost over its units. Units are ranked by score over $c_l^p$,
    the greedy order of a knapsack, and the best are kept that the budget pays for; those that are equal at
    the cut all go. The best of each layer, as many as its floor says, are paid for first.

    Args:
      costs: of each prunable leaf while it is dense: operations (`jaxprune.metrics.flops`), bytes,
        microseconds. A tree like the parameters, or numbers by path.
      power: $p$; 0 compares scores as they are and only counts the budget in costs.
      at_least: fewest units that a layer keeps, or all that it has, even if the budget pays for fewer; 0
        allows that it is emptied.

    Returns:
      An allocation. Where a leaf has many contests, each keeps the leaf's count divided by their number,
      rounded down, so that the budget holds.

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
        found = trees.beside(params, units)
        of_leaf = _checked(_by_leaf(costs, params, trees.paths(params)), found, params)
        pruned = [(cost, u) for cost, u in zip(of_leaf, found, strict=True) if u is not None]
        layers = Layers([unit for _, unit in pruned])
        each = [cost / u.scores.size for cost, u in pruned]
        scale = [np.float32(max(each) / e) ** np.float32(power) for e in each]
        keys = [_keys(u, s) for (_, u), s in zip(pruned, scale, strict=True)]
        share = np.array(each) / sum(cost for cost, _ in pruned)
        unit_cost = jnp.asarray(layers.repeated(share), jnp.float32)
        budget = (1 - jnp.asarray(sparsity, jnp.float32)) * jnp.sum(unit_cost * layers.sizes)
        floors = layers.floors(at_least)
        counts = _affordable(keys, layers, unit_cost, budget * np.float32(1 + 1e-6), floors)
        kept = map(Keep, layers.split(counts // layers.contests))
        return jax.tree.structure(params).unflatten(
            None if u is None else next(kept) for u in found
        )

    return Allocation(allocate)


@factory
def at_cost(allocation: AnyAllocation, costs: Mapping[str, float] | Any) -> Allocation:
    """Another allocation, at whatever sparsity removes the asked fraction of the cost.

    So that uniform, ERK and others can be compared at equal operations. The sparsity of the other one is
    found by bisection: what is kept costs no more than asked, unless nothing can be cheaper, as its floors
    may be dearer than that.

    Args:
      allocation: the other one; the more it is asked to remove, the less it keeps.
      costs: of each prunable leaf while it is dense, as for `cost_budget`.

    >>> from jaxprune.allocation import uniform
    >>> from jaxprune.types import Units
    >>> params = {"a": jnp.ones(100), "b": jnp.ones(100)}
    >>> costs, units = {"a": 30.0, "b": 10.0}, jax.tree.map(Units, params)
    >>> jax.tree.map(int, at_cost(uniform({"b": 0.0}), costs)(params, units, 0.6))  # 16 of 40 are left
    {'a': 20, 'b': 100}
    """

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        found = trees.beside(params, units)
        of_leaf = _checked(_by_leaf(costs, params, trees.paths(params)), found, params)
        pruned = [(cost, u) for cost, u in zip(of_leaf, found, strict=True) if u is not None]
        whole = sum(cost for cost, _ in pruned)
        layers = Layers([unit for _, unit in pruned])
        each = layers.repeated([np.float32(cost / whole / u.scores.size) for cost, u in pruned])
        full = jnp.sum(each * layers.sizes)
        budget = (1 - jnp.asarray(sparsity, jnp.float32)) * full * np.float32(1 + 1e-6)

        def cost(s: jax.Array) -> Any:
            kept = trees.beside(params, allocation(params, units, s))
            counts = [k.count if isinstance(k, Keep) else k for k in kept if k is not None]
            return jnp.sum(each * layers.joined(counts) * layers.contests)

        def halve(_: Any, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bracket
            middle = (low + high) / 2
            dear = cost(middle) > budget
            return jnp.where(dear, middle, low), jnp.where(dear, high, middle)

        start = (jnp.float32(0), jnp.float32(1))
        _, high = jax.lax.fori_loop(0, 24, halve, start)
        return allocation(params, units, jnp.where(cost(jnp.float32(0)) > budget, high, 0.0))

    if not isinstance(allocation, Allocation) or allocation.shares is None:
        return Allocation(allocate)
    shares = at_cost(Allocation(allocation.shares), costs).allocate
    return Allocation(allocate, shares, allocation.at_least)


def _keys(units: Units, scale: Any) -> jax.Array:
    """Scores by cost as integers in the same order; the lowest where nothing may be kept."""
    keys = order_key(units.scores.astype(jnp.float32) * scale)
    allowed = keys if units.among is None else jnp.where(units.among, keys, LOWEST)
    return _from_zero(allowed)


def _checked(of_leaf: list[Any], found: list[Any], params: Params) -> list[Any]:
    """The costs, if each leaf that is pruned has one."""
    for name, cost, unit in zip(trees.paths(params), of_leaf, found, strict=True):
        if unit is not None and (cost is None or not cost > 0):
            raise ValueError(
                f"costs: the leaf {name!r} has {cost}; a number above 0 is needed for each leaf that is "
                "pruned."
            )
    return of_leaf


def _by_leaf(costs: Any, params: Params, names: list[str]) -> list[Any]:
    if isinstance(costs, Mapping) and any(name in costs for name in names):
        return [costs.get(name) for name in names]
    return trees.beside(params, costs)


def _from_zero(keys: jax.Array) -> jax.Array:
    """Signed integers as unsigned ones in the same order."""
    return jax.lax.bitcast_convert_type(keys, jnp.uint32) ^ np.uint32(1 << 31)


def _affordable(
    keys: list[jax.Array],
    layers: Layers,
    unit_cost: jax.Array,
    budget: jax.Array,
    floors: jax.Array,
) -> jax.Array:
    """Per layer its floor, or how many units lie above the lowest threshold that the budget pays for."""

    def count(t: jax.Array) -> jax.Array:
        pairs = zip(keys, layers.units, strict=True)
        within = [tuple(i for i in range(k.ndim) if i not in u.layers) for k, u in pairs]
        above = [jnp.sum(k > t, axes, jnp.int32) for k, axes in zip(keys, within, strict=True)]
        return jnp.maximum(layers.joined(above), floors)

    def lower(i: jax.Array, t: jax.Array) -> jax.Array:
        # The highest threshold that costs too much, bit by bit; one above it does not.
        raised = t | (np.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(jnp.sum(count(raised - 1) * unit_cost) > budget, raised, t)

    t = jax.lax.fori_loop(0, 32, lower, jnp.uint32(0))
    return count(t)
