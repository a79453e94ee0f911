"""Allocations that give each leaf its share by its name or shape.

Each has a floor: no layer keeps fewer than `at_least` of its units, or all where it has fewer. It is 1 by
default, as a layer that keeps none lets nothing through, and 0 allows that. A unit is what the pattern makes
one: a weight, a channel, a block. In a layer of many contests (N:M), each keeps the same number.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, trees
from jaxprune.allocation.counts import Layers, apportion, check_floor, floored, survivors
from jaxprune.kernel_axes import by_position
from jaxprune.parts import factory
from jaxprune.types import Allocation, Params, Sparsity, Units

__all__ = ["by_path", "erk", "uniform", "uniform_plus"]

_is_units = lambda x: isinstance(x, Units)
_TABLE = checks.Kind(
    "a dict of numbers by regular expression",
    lambda value: isinstance(value, Mapping),
    lambda _: "such as {'head/kernel': 0.5}",
)


@factory
def uniform(rates: Mapping[str, float] | None = None, *, at_least: int = 1) -> Allocation:
    """Every layer loses the same fraction, rounded to whole units.

    A layer is a leaf, or where `axes` say that layers are stacked in one leaf, a slice of it. Each rounds by
    itself and none falls below its floor, so that the tree may keep more than is asked for:
    `jaxprune.masks.table` shows what it is.

    Args:
      rates: factors on the sparsity for leaves whose path a regular expression matches, the first
        match counting: `{"fc3/kernel": 0.5}` prunes the output layer at half the rate, as the
        lottery-ticket paper does; 0 leaves a leaf dense.
      at_least: fewest units that a layer keeps, or all that it has; 0 allows that it is emptied.

    >>> params = {"head": jnp.ones((4, 1)), "w": jnp.ones((8, 10))}
    >>> units = jax.tree.map(Units, params)
    >>> jax.tree.map(int, uniform()(params, units, 0.95))  # 5 of 84, where 4 are asked for
    {'head': 1, 'w': 4}
    >>> jax.tree.map(int, uniform(at_least=0)(params, units, 0.95))
    {'head': 0, 'w': 4}
    """
    checks.check("uniform", rates=(rates, checks.optional(_TABLE)))
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
        names = trees.paths(params)
        _check_matches("uniform(rates=)", rates, names)
        shares: dict[Any, jax.Array] = {}  # leaves of one size are asked for the same

        def survivors_of(units: Any, rate: float | None) -> jax.Array:
            asked = (units if isinstance(units, int) else id(units), rate)
            if asked not in shares:
                removed = sparsity if rate is None else sparsity * rate
                shares[asked] = survivors(units, removed)
            return shares[asked]

        def count(name: str, unit: Units | None) -> jax.Array | None:
            if unit is None:
                return None
            share = survivors_of(unit.budgeted, _entry(rates, name))
            kept = jnp.maximum(share, jnp.minimum(-(-floor // unit.contests), unit.budgeted))
            return jnp.broadcast_to(kept, unit.layer_shape)

        found = trees.beside(params, units)
        return jax.tree.structure(params).unflatten(map(count, names, found))

    return _with_floor(allocate, at_least)


def _with_floor(allocate: Callable[..., Any], at_least: int) -> Allocation:
    """The allocation of a function that takes a floor as its last argument."""
    return Allocation(allocate, functools.partial(allocate, floor=0), at_least)


@factory
def uniform_plus(*, first: str, last: str, most: float = 0.8, at_least: int = 1) -> Allocation:
    """The same fraction everywhere, except that the first leaf stays dense and the last loses less.

    The other leaves lose more in return, so that the tree keeps its budget.

    Args:
      first: regular expression of the leaves that stay dense.
      last: regular expression of the leaves that lose `most` at most. If the two keep the whole budget or
        more, the others keep their floor beyond it.
      most: highest sparsity of the last leaves.
      at_least: fewest units that a layer keeps, or all that it has; 0 allows that it is emptied. Of the
        others, those furthest above it pay for it, so that the total is kept.

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
        names, found = trees.paths(params), trees.beside(params, units)
        _check_matches("uniform_plus", (first, last), names)
        pruned = [(n, u) for n, u in zip(names, found, strict=True) if u is not None]
        layers = Layers([unit for _, unit in pruned])
        dense = layers.repeated([bool(re.search(first, name)) for name, _ in pruned])
        tail = layers.repeated([bool(re.search(last, name)) for name, _ in pruned]) & ~dense
        capped = jnp.minimum(jnp.asarray(sparsity, jnp.float32), most)
        floors = layers.floors(floor)
        share = jnp.maximum(survivors(layers.sizes, capped), floors)
        fixed = jnp.where(dense, layers.sizes, jnp.where(tail, share, 0))
        left = jnp.maximum(survivors(jnp.sum(layers.sizes), sparsity) - jnp.sum(fixed), 0)
        open_ = jnp.where(dense | tail, 0, layers.sizes)
        density = jnp.clip(left / jnp.maximum(jnp.sum(open_), 1), 0.0, 1.0)
        shares = apportion(jnp.full(layers.count, density), open_, left)
        counts = floored(fixed + shares, jnp.where(dense | tail, fixed, floors))
        kept = iter(layers.in_contests(counts))
        return jax.tree.structure(params).unflatten(
            None if u is None else next(kept) for u in found
        )

    return _with_floor(allocate, at_least)


@factory
def erk(
    power: float = 1.0,
    *,
    kernel: bool = True,
    sparsities: Mapping[str, float] | None = None,
    at_least: int = 1,
) -> Allocation:
    r"""Erdős–Rényi-kernel densities: thin layers keep more.

    The density of a layer is $\min(1, \epsilon \, (\sum_i n_i / \prod_i n_i)^p)$ over the numbers $n_i$ of
    its inputs, its outputs and the places of its window, with $\epsilon$ such that the whole tree keeps its
    budget. Counts are rounded to the budget exactly where a layer is one contest; where it has many, to the
    nearest count that all its contests can share.

    Args:
      power: exponent $p$; 0 gives equal densities.
      kernel: whether the window counts; if not, inputs and outputs alone do (Erdős–Rényi).
      sparsities: fraction removed of leaves whose path a regular expression matches, the first match
        counting, at any step: `{"conv1/kernel": 0.0}` leaves the first one dense. The others share what is
        left of the budget; they are dense where it is more than they have.
      at_least: fewest units that a layer keeps, or all that it has; 0 allows that it is emptied. The layers
        furthest above it pay for it, so that the total is kept, unless the floors together are more.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020),
      section 3; Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive Sparse
      Connectivity inspired by Network Science" (2018) for the form without windows.

    Raises:
      ValueError: if it is not known which axes of a leaf are inputs.

    >>> params = {"a": jnp.ones((10, 10)), "b": jnp.ones((40, 40)), "c": jnp.ones((40, 10))}
    >>> units = jax.tree.map(Units, params)
    >>> jax.tree.map(int, erk()(params, units, 0.9))
    {'a': 28, 'b': 112, 'c': 70}
    >>> jax.tree.map(int, erk(sparsities={"c": 0.9})(params, units, 0.9))
    {'a': 34, 'b': 136, 'c': 40}
    """
    check_floor("erk", at_least)
    checks.check("erk", sparsities=(sparsities, checks.optional(_TABLE)))
    table = dict(sparsities or {})
    _check_sparsities("erk(sparsities=)", table)

    def allocate(params: Params, units: Any, sparsity: Sparsity, floor: int = at_least) -> Any:
        names, found = trees.paths(params), trees.beside(params, units)
        _check_matches("erk(sparsities=)", table, names)
        named = zip(names, jax.tree.leaves(params), found, strict=True)
        pruned = [(name, jnp.shape(leaf), u) for name, leaf, u in named if u is not None]
        layers = Layers([unit for *_, unit in pruned])
        floors, total = layers.floors(floor), survivors(jnp.sum(layers.sizes), sparsity)
        given = [_entry(table, name) for name, *_ in pruned]
        shared = [leaf for leaf, own in zip(pruned, given, strict=True) if own is None]
        is_shared = layers.repeated([own is None for own in given])
        rates = jnp.asarray(layers.repeated([own or 0.0 for own in given]), jnp.float32)
        fixed = jnp.where(is_shared, 0, jnp.maximum(survivors(layers.sizes, rates), floors))
        counts = fixed
        if shared:
            left = jnp.maximum(total - jnp.sum(fixed), 0)
            sides = [_dimensions(*leaf, windows=kernel) for leaf in shared]
            thinness = [(sum(own) / max(math.prod(own), 1)) ** power for own in sides]
            shares = _by_thinness(thinness, Layers([unit for *_, unit in shared]), left)
            counts = fixed.at[np.flatnonzero(is_shared)].set(shares)
        kept = iter(layers.in_contests(floored(counts, jnp.where(is_shared, floors, fixed))))
        return jax.tree.structure(params).unflatten(
            None if u is None else next(kept) for u in found
        )

    return _with_floor(allocate, at_least)


def _by_thinness(thinness: list[float], layers: Layers, total: jax.Array) -> jax.Array:
    """Deals out a total in densities proportional to the thinness of each leaf, none above 1."""
    raw = layers.repeated(thinness).astype(np.float32)
    total = jnp.minimum(total, jnp.sum(layers.sizes))
    # The layers that stay dense are those of the largest raw density: try 0, 1, 2, ... of them.
    order = np.argsort(-raw, kind="stable")
    n = layers.sizes[order].astype(jnp.float32)
    r = raw[order]
    before = jnp.cumsum(n) - n
    mass = jnp.cumsum((n * r)[::-1])[::-1]
    scale = (total.astype(jnp.float32) - before) / jnp.maximum(mass, 1e-30)
    fits = scale * r <= 1.0
    first = jnp.where(jnp.any(fits), jnp.argmax(fits), len(raw))
    epsilon = scale[jnp.minimum(first, len(raw) - 1)]
    density = jnp.where(jnp.arange(len(raw)) < first, 1.0, jnp.clip(epsilon * r, 0.0, 1.0))
    return apportion(density[np.argsort(order, kind="stable")], layers.sizes, total)


def _dimensions(name: str, shape: tuple[int, ...], unit: Units, *, windows: bool) -> list[int]:
    """How many inputs, outputs and, with windows, places along their sides one layer of a leaf has."""
    own = by_position(shape) if unit.kernel is None else unit.kernel
    if own.in_axis is None:
        raise ValueError(
            f"erk: which axes of {name!r} are inputs is not known, as {own.reason}; give axes=jaxprune.axes("
            "apply, params, *inputs), or another allocation."
        )
    sides = [math.prod(shape[i] for i in some) for some in (own.in_axis, own.out_axis) if some]
    known = {*own.in_axis, *own.out_axis, *own.batch_axis}
    return [*sides, *(size for i, size in enumerate(shape) if windows and i not in known)]


def _check_sparsities(who: str, table: Mapping[str, float]) -> None:
    """Refuses keys that are no regular expressions, and values that are no fractions removed."""
    for pattern, value in table.items():
        checks.expression(who, pattern)
        checks.check(who, **{f"sparsities[{pattern!r}]": (value, checks.NUMBER)})
        if not 0 <= value < 1:
            raise ValueError(f"{who}: {pattern!r} has {value}; fractions in [0, 1) are needed.")


def _check_matches(who: str, patterns: Iterable[str], names: list[str]) -> None:
    """Refuses expressions that match no leaf."""
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"{who}: {pattern!r} matches none of the leaves {names}.")


def _entry(table: Mapping[str, float], name: str) -> float | None:
    """What the first expression that matches a path stands for; `None` if none does."""
    return next((value for pattern, value in table.items() if re.search(pattern, name)), None)


@factory
def by_path(sparsities: Mapping[str, float], *, at_least: int = 1) -> Allocation:
    """Each layer has a sparsity of its own, in the proportions of a table.

    Where the schedule asks for the table's own overall sparsity, leaves get exactly what the table says; at
    another one all are scaled by the same factor. A leaf that would have to lose more than all loses all
    but its floor, and the others make up for it.

    Args:
      sparsities: fraction removed by regular expression, searched in the path of a leaf, the first match
        counting; or by the name of a layer as it stands, `"layers/kernel[3]"` for one of a stack. Leaves that
        nothing matches stay dense.
      at_least: fewest units that a layer keeps, or all that it has; 0 allows that it is emptied.

    >>> params = {"a": jnp.ones(100), "b": jnp.ones(100)}
    >>> allocate = by_path({"a": 0.9, "b": 0.5})
    >>> [jax.tree.map(int, allocate(params, jax.tree.map(Units, params), s)) for s in (0.7, 0.35)]
    [{'a': 10, 'b': 50}, {'a': 55, 'b': 75}]
    """
    checks.check("by_path", sparsities=(sparsities, _TABLE))
    check_floor("by_path", at_least)
    table = dict(sparsities)
    _check_sparsities("by_path", table)
    if not any(table.values()):
        raise ValueError(f"by_path({table}): every sparsity is 0; give at least one above 0.")

    def allocate(params: Params, units: Any, sparsity: Sparsity, floor: int = at_least) -> Any:
        names, found = trees.paths(params), trees.beside(params, units)
        own = {name: u.layer_shape for name, u in zip(names, found, strict=True) if u is not None}
        layer_names = [
            layer for name in names for layer in trees.layer_names(name, own.get(name, ()))
        ]
        for pattern in table:
            if pattern not in layer_names and not any(re.search(pattern, n) for n in layer_names):
                raise ValueError(f"by_path: {pattern!r} matches none of the leaves {names}.")
        pruned = [(name, u) for name, u in zip(names, found, strict=True) if u is not None]
        layers = Layers([unit for _, unit in pruned])
        rates = jnp.array(
            [
                _rate(table, own)
                for name, u in pruned
                for own in trees.layer_names(name, u.layer_shape)
            ],
            jnp.float32,
        )
        sizes = layers.sizes
        total = survivors(jnp.sum(sizes), sparsity)
        n = sizes.astype(jnp.float32)
        goal = (jnp.sum(sizes) - total).astype(jnp.float32)
        floors = layers.floors(floor)
        most = jnp.where(rates > 0, 1 - floors / jnp.maximum(n, 1), 0.0)

        lost = _scaled(n, rates, most, goal)
        open_to = jnp.where(rates > 0, sizes, 0)
        left = jnp.maximum(total - jnp.sum(sizes - open_to), 0)
        counts = jnp.where(rates > 0, apportion(1 - lost, open_to, left), sizes)
        kept = iter(layers.in_contests(floored(counts, jnp.where(rates > 0, floors, sizes))))
        return jax.tree.structure(params).unflatten(
            None if u is None else next(kept) for u in found
        )

    return _with_floor(allocate, at_least)


@jax.jit
def _scaled(n: jax.Array, rates: jax.Array, most: jax.Array, goal: jax.Array) -> jax.Array:
    """Fractions removed in the proportion of `rates`, none above `most`, that remove `goal` units of `n`."""

    def tighten(_: int, capped: jax.Array) -> jax.Array:
        free = jnp.sum(jnp.where(capped, 0, n * rates))
        taken = jnp.sum(jnp.where(capped, n * most, 0))
        return capped | ((goal - taken) / jnp.maximum(free, 1e-30) * rates > most)

    capped = jax.lax.fori_loop(0, len(n), tighten, rates < 0)
    free = jnp.sum(jnp.where(capped, 0, n * rates))
    factor = (goal - jnp.sum(jnp.where(capped, n * most, 0))) / jnp.maximum(free, 1e-30)
    return jnp.where(capped, most, jnp.clip(factor * rates, 0, most))


def _rate(table: Mapping[str, float], name: str) -> float:
    """The entry of a layer: of its name, or of the first expression that matches it."""
    return table[name] if name in table else _entry(table, name) or 0.0
