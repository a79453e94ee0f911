"""An allocation by the shape of a leaf: thin layers keep more."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, trees
from jaxprune.allocation.by_leaf import TABLE, check_sparsities, first_match
from jaxprune.allocation.counts import (
    Layers,
    apportion,
    check_floor,
    fill_pruned,
    raise_to_floors,
    survivors,
)
from jaxprune.kernel_axes import by_position
from jaxprune.parts import factory
from jaxprune.types import Allocation, Params, Sparsity, Units

__all__ = ["erk"]


@factory
def erk(
    power: float = 1.0,
    *,
    kernel: bool = True,
    sparsities: Mapping[str, float] | None = None,
    at_least: int = 1,
) -> Allocation:
    r"""Returns the allocation of Erdős–Rényi-kernel densities, which keeps more of thin layers.

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
      at_least: fewest units that a layer keeps (all if it has fewer); with 0 it may lose all. The layers
        furthest above it pay for it, so that the total is kept, unless the floors together are more.

    Returns:
      An allocation.

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
    checks.check("erk", sparsities=(sparsities, checks.optional(TABLE)))
    table = dict(sparsities or {})
    check_sparsities("erk(sparsities=)", table)

    def allocate(params: Params, units: Any, sparsity: Sparsity, floor: int = at_least) -> Any:
        paths = trees.paths(params)
        units_by_leaf = trees.beside(params, units)
        trees.check_matches("erk(sparsities=)", table, paths)
        rows = zip(paths, jax.tree.leaves(params), units_by_leaf, strict=True)
        pruned = [
            (path, jnp.shape(leaf), leaf_units)
            for path, leaf, leaf_units in rows
            if leaf_units is not None
        ]
        layers = Layers([leaf_units for *_, leaf_units in pruned])
        floors = layers.floors(floor)
        given_sparsities = [first_match(table, path) for path, *_ in pruned]
        shared_leaves = [
            leaf for leaf, given in zip(pruned, given_sparsities, strict=True) if given is None
        ]
        is_shared = layers.repeated([given is None for given in given_sparsities])
        rates = layers.repeated([given or 0.0 for given in given_sparsities])
        given_counts = survivors(layers.sizes, jnp.asarray(rates, jnp.float32))
        fixed = jnp.where(is_shared, 0, jnp.maximum(given_counts, floors))
        counts = fixed
        if shared_leaves:
            kept_count = survivors(layers.total, sparsity)
            shared_count = jnp.maximum(kept_count - jnp.sum(fixed), 0)
            dimensions = [_dimensions(*leaf, windows=kernel) for leaf in shared_leaves]
            thinness = [(sum(dims) / max(math.prod(dims), 1)) ** power for dims in dimensions]
            shared_layers = Layers([leaf_units for *_, leaf_units in shared_leaves])
            shares = _share_by_thinness(thinness, shared_layers, shared_count)
            counts = fixed.at[np.flatnonzero(is_shared)].set(shares.astype(fixed.dtype))
        counts = raise_to_floors(counts, jnp.where(is_shared, floors, fixed))
        return fill_pruned(params, units_by_leaf, layers.in_contests(counts))

    return Allocation(allocate, functools.partial(allocate, floor=0), at_least)


def _share_by_thinness(thinness: list[float], layers: Layers, total: jax.Array) -> jax.Array:
    """Returns counts that add up to a total, in densities proportional to the thinness, none above 1.

    Args:
      thinness: of each leaf.
      layers: of these leaves.
      total: units that they keep together.
    """
    raw_density = layers.repeated(thinness).astype(np.float32)
    total = jnp.minimum(total, layers.total)
    # The layers that stay dense are those of the largest raw density: try 0, 1, 2, ... of them.
    order = np.argsort(-raw_density, kind="stable")
    sizes = layers.sizes[order].astype(jnp.float32)
    descending = raw_density[order]
    dense_counts = jnp.cumsum(sizes) - sizes
    remaining_mass = jnp.cumsum((sizes * descending)[::-1])[::-1]
    scales = (total.astype(jnp.float32) - dense_counts) / jnp.maximum(remaining_mass, 1e-30)
    fits = scales * descending <= 1.0
    layer_count = len(raw_density)
    number_of_dense = jnp.where(jnp.any(fits), jnp.argmax(fits), layer_count)
    epsilon = scales[jnp.minimum(number_of_dense, layer_count - 1)]
    is_dense = jnp.arange(layer_count) < number_of_dense
    density = jnp.where(is_dense, 1.0, jnp.clip(epsilon * descending, 0.0, 1.0))
    return apportion(density[np.argsort(order, kind="stable")], layers.sizes, total)


def _dimensions(
    path: str, shape: tuple[int, ...], leaf_units: Units, *, windows: bool
) -> list[int]:
    """Returns how many inputs, outputs and, with windows, places along their sides one layer has."""
    axes = by_position(shape) if leaf_units.kernel is None else leaf_units.kernel
    if axes.in_axis is None:
        raise ValueError(
            f"erk: which axes of {path!r} are inputs is not known, as {axes.reason}; give "
            "axes=jaxprune.axes(apply, params, *inputs), or another allocation."
        )
    side_lengths = [
        math.prod(shape[axis] for axis in side) for side in (axes.in_axis, axes.out_axis) if side
    ]
    named_axes = {*axes.in_axis, *axes.out_axis, *axes.batch_axis}
    window_lengths = [size for axis, size in enumerate(shape) if axis not in named_axes]
    return [*side_lengths, *(window_lengths if windows else [])]
