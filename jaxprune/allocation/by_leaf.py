"""Allocations by the name of a leaf.

Each has a floor: a layer keeps at least `at_least` of its units, or all if it has fewer. The floor is 1 by
default, because a layer without any unit cuts the network; 0 allows that. A unit is a weight, channel or
block, according to the pattern. In a layer of many contests (N:M), each contest keeps the same number.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks, trees
from jaxprune.allocation.counts import (
    Layers,
    apportion,
    check_floor,
    fill_pruned,
    raise_to_floors,
    survivors,
)
from jaxprune.parts import factory
from jaxprune.types import Allocation, Params, Sparsity, Units

__all__ = [
    "TABLE",
    "by_path",
    "check_sparsities",
    "first_match",
    "uniform",
    "uniform_plus",
]

TABLE = checks.Kind(
    "a dict of numbers by regular expression",
    lambda value: isinstance(value, Mapping),
    lambda _: "such as {'head/kernel': 0.5}",
)


@factory
def uniform(rates: Mapping[str, float] | None = None, *, at_least: int = 1) -> Allocation:
    """Returns the allocation that removes the same fraction of every layer, rounded to whole units.

    A layer is a leaf, or, where `axes` say that layers are stacked in one leaf, a slice of it. Each layer is
    rounded by itself, and none falls below its floor, so that the tree may keep more than is asked for:
    `jaxprune.masks.table` shows the sparsity reached.

    Args:
      rates: by regular expression over paths, a factor by which the sparsity of the leaf is multiplied; the
        first match counts: `{"fc3/kernel": 0.5}` prunes the output layer at half the rate, as the
        lottery-ticket paper does; 0 leaves a leaf dense.
      at_least: fewest units that a layer keeps (all if it has fewer); with 0 it may lose all.

    Returns:
      An allocation.

    Raises:
      ValueError: if a rate is not in [0, 1]; when it is used, if an expression matches no leaf.

    >>> params = {"head": jnp.ones((4, 1)), "w": jnp.ones((8, 10))}
    >>> units = jax.tree.map(Units, params)
    >>> jax.tree.map(int, uniform()(params, units, 0.95))  # 5 of 84, where 4 are asked for
    {'head': 1, 'w': 4}
    >>> jax.tree.map(int, uniform(at_least=0)(params, units, 0.95))
    {'head': 0, 'w': 4}
    """
    checks.check("uniform", rates=(rates, checks.optional(TABLE)))
    check_floor("uniform", at_least)
    rates = dict(rates or {})
    for pattern, rate in rates.items():
        checks.expression("uniform(rates=)", pattern)
        checks.check("uniform", **{f"rates[{pattern!r}]": (rate, checks.NUMBER)})
        if not 0 <= rate <= 1:
            raise ValueError(
                f"uniform(rates=): {pattern!r} has the factor {rate}; it lies in [0, 1]."
            )

    def allocate(params: Params, units: Any, sparsity: Sparsity, floor: int = at_least) -> Any:
        paths = trees.paths(params)
        trees.check_matches("uniform(rates=)", rates, paths)
        counts: dict[Any, jax.Array] = {}  # of leaves of one size and rate, computed once

        def count_survivors(unit_count: Any, rate: float | None) -> jax.Array:
            question = (unit_count if isinstance(unit_count, int) else id(unit_count), rate)
            if question not in counts:
                leaf_sparsity = sparsity if rate is None else sparsity * rate
                counts[question] = survivors(unit_count, leaf_sparsity)
            return counts[question]

        def count_in_contests(path: str, leaf_units: Units | None) -> jax.Array | None:
            if leaf_units is None:
                return None
            count = count_survivors(leaf_units.budgeted, first_match(rates, path))
            kept = jnp.maximum(
                count, jnp.minimum(-(-floor // leaf_units.contests), leaf_units.budgeted)
            )
            return jnp.broadcast_to(kept, leaf_units.layer_shape)

        units_by_leaf = trees.beside(params, units)
        return jax.tree.structure(params).unflatten(map(count_in_contests, paths, units_by_leaf))

    return Allocation(allocate, functools.partial(allocate, floor=0), at_least)


@factory
def uniform_plus(*, first: str, last: str, most: float = 0.8, at_least: int = 1) -> Allocation:
    """Returns the allocation `uniform`, except that the first layer stays dense and the last loses less.

    The other layers lose more in return, so that the whole tree has the sparsity that was asked for.

    Args:
      first: regular expression of the leaves that stay dense.
      last: regular expression of the leaves that lose `most` at most. If the two keep the whole budget or
        more, the others keep their floor beyond it.
      most: highest sparsity of the last leaves, a fraction removed.
      at_least: fewest units that a layer keeps (all if it has fewer); with 0 it may lose all. Of the others,
        those furthest above it pay for it, so that the total is kept.

    Returns:
      An allocation.

    Raises:
      ValueError: if `most` is not in [0, 1); when it is used, if an expression matches no leaf.

    References:
      Gale, Elsen & Hooker, "The State of Sparsity in Deep Neural Networks" (2019): first convolution
      dense, last layer at 80 % at most.

    >>> params = {"a": jnp.ones(10), "b": jnp.ones(80), "c": jnp.ones(10)}
    >>> keep = uniform_plus(first="a", last="c")(params, jax.tree.map(Units, params), 0.85)
    >>> jax.tree.map(int, keep)
    {'a': 10, 'b': 3, 'c': 2}
    """

    for pattern in (first, last):
        checks.expression("uniform_plus", pattern)
    check_floor("uniform_plus", at_least)
    if not 0 <= most < 1:
        raise ValueError(f"uniform_plus(most={most}): a fraction removed, in [0, 1), is needed.")

    def allocate(params: Params, units: Any, sparsity: Sparsity, floor: int = at_least) -> Any:
        paths = trees.paths(params)
        units_by_leaf = trees.beside(params, units)
        trees.check_matches("uniform_plus", (first, last), paths)
        pruned = [
            (path, leaf_units)
            for path, leaf_units in zip(paths, units_by_leaf, strict=True)
            if leaf_units is not None
        ]
        layers = Layers([leaf_units for _, leaf_units in pruned])
        is_first = layers.repeated([bool(re.search(first, path)) for path, _ in pruned])
        is_last = layers.repeated([bool(re.search(last, path)) for path, _ in pruned]) & ~is_first
        capped_sparsity = jnp.minimum(jnp.asarray(sparsity, jnp.float32), most)
        floors = layers.floors(floor)
        last_counts = jnp.maximum(survivors(layers.sizes, capped_sparsity), floors)
        fixed = jnp.where(is_first, layers.sizes, jnp.where(is_last, last_counts, 0))
        kept_count = survivors(layers.total, sparsity)
        shared_count = jnp.maximum(kept_count - jnp.sum(fixed), 0)
        shared_sizes = jnp.where(is_first | is_last, 0, layers.sizes)
        density = jnp.clip(shared_count / jnp.maximum(jnp.sum(shared_sizes), 1), 0.0, 1.0)
        shares = apportion(jnp.full(layers.count, density), shared_sizes, shared_count)
        counts = raise_to_floors(fixed + shares, jnp.where(is_first | is_last, fixed, floors))
        return fill_pruned(params, units_by_leaf, layers.in_contests(counts))

    return Allocation(allocate, functools.partial(allocate, floor=0), at_least)


def check_sparsities(who: str, table: Mapping[str, float]) -> None:
    """Raises if keys are no regular expressions, or values no fractions removed."""
    for pattern, value in table.items():
        checks.expression(who, pattern)
        checks.check(who, **{f"sparsities[{pattern!r}]": (value, checks.NUMBER)})
        if not 0 <= value < 1:
            raise ValueError(f"{who}: {pattern!r} has {value}; fractions in [0, 1) are needed.")


def first_match(table: Mapping[str, float], path: str) -> float | None:
    """Returns the value of the first expression that matches a path; `None` if none does."""
    return next((value for pattern, value in table.items() if re.search(pattern, path)), None)


@factory
def by_path(sparsities: Mapping[str, float], *, at_least: int = 1) -> Allocation:
    """Returns the allocation by a table of sparsities per layer, scaled to the overall sparsity asked for.

    If the schedule asks for the overall sparsity of the table, each layer gets its entry. At another sparsity
    all entries are scaled by the same factor. A layer that would have to lose more than it has keeps its
    floor, and the others make up for it.

    Args:
      sparsities: fraction removed by regular expression, searched in the path of a leaf, the first match
        counting; or by the exact name of a layer, such as `"layers/kernel[3]"` for one of a stack. Leaves
        that nothing matches stay dense.
      at_least: fewest units that a layer keeps (all if it has fewer); with 0 it may lose all.

    Returns:
      An allocation.

    Raises:
      ValueError: if a sparsity is not in [0, 1), or all are 0; when it is used, if a key matches no layer.

    >>> params = {"a": jnp.ones(100), "b": jnp.ones(100)}
    >>> allocate = by_path({"a": 0.9, "b": 0.5})
    >>> [jax.tree.map(int, allocate(params, jax.tree.map(Units, params), s)) for s in (0.7, 0.35)]
    [{'a': 10, 'b': 50}, {'a': 55, 'b': 75}]
    """
    checks.check("by_path", sparsities=(sparsities, TABLE))
    check_floor("by_path", at_least)
    table = dict(sparsities)
    check_sparsities("by_path", table)
    if not any(table.values()):
        raise ValueError(f"by_path({table}): every sparsity is 0; give at least one above 0.")

    def allocate(params: Params, units: Any, sparsity: Sparsity, floor: int = at_least) -> Any:
        paths = trees.paths(params)
        units_by_leaf = trees.beside(params, units)
        names_of_leaves = [
            trees.layer_names(path, () if leaf_units is None else leaf_units.layer_shape)
            for path, leaf_units in zip(paths, units_by_leaf, strict=True)
        ]
        layer_names = [name for names in names_of_leaves for name in names]
        trees.check_matches(
            "by_path", [pattern for pattern in table if pattern not in layer_names], layer_names
        )
        layers = Layers([leaf_units for leaf_units in units_by_leaf if leaf_units is not None])
        rates = jnp.array(
            [
                _layer_rate(table, name)
                for names, leaf_units in zip(names_of_leaves, units_by_leaf, strict=True)
                if leaf_units is not None
                for name in names
            ],
            jnp.float32,
        )
        sizes = layers.sizes
        kept_count = survivors(layers.total, sparsity)
        removed_count = (layers.total - kept_count).astype(jnp.float32)
        float_sizes = sizes.astype(jnp.float32)
        floors = layers.floors(floor)
        highest = jnp.where(rates > 0, 1 - floors / jnp.maximum(float_sizes, 1), 0.0)
        sparsities = _scale_rates(float_sizes, rates, highest, removed_count)
        prunable_sizes = jnp.where(rates > 0, sizes, 0)
        shared_count = jnp.maximum(kept_count - jnp.sum(sizes - prunable_sizes), 0)
        shares = apportion(1 - sparsities, prunable_sizes, shared_count)
        counts = jnp.where(rates > 0, shares, sizes)
        counts = raise_to_floors(counts, jnp.where(rates > 0, floors, sizes))
        return fill_pruned(params, units_by_leaf, layers.in_contests(counts))

    return Allocation(allocate, functools.partial(allocate, floor=0), at_least)


@jax.jit
def _scale_rates(
    sizes: jax.Array, rates: jax.Array, highest: jax.Array, removed_count: jax.Array
) -> jax.Array:
    """Returns sparsities in the proportion of `rates`, none above `highest`, that remove so many units.

    Layers that would lose more than their highest sparsity are capped, and the others scaled up, until no
    further layer is capped.

    Args:
      sizes: units of each layer, float32.
      rates: of each layer, fraction removed before scaling.
      highest: of each layer, fraction removed at most.
      removed_count: units removed in all, float32.
    """

    def scale_of_uncapped(capped: jax.Array) -> jax.Array:
        uncapped_mass = jnp.sum(jnp.where(capped, 0, sizes * rates))
        capped_count = jnp.sum(jnp.where(capped, sizes * highest, 0))
        return (removed_count - capped_count) / jnp.maximum(uncapped_mass, 1e-30)

    def cap_more(_: int, capped: jax.Array) -> jax.Array:
        return capped | (scale_of_uncapped(capped) * rates > highest)

    capped = jax.lax.fori_loop(0, len(sizes), cap_more, rates < 0)
    return jnp.where(capped, highest, jnp.clip(scale_of_uncapped(capped) * rates, 0, highest))


def _layer_rate(table: Mapping[str, float], name: str) -> float:
    """Returns the rate of a layer: by its name, or by the first expression that matches it."""
    return table[name] if name in table else first_match(table, name) or 0.0
