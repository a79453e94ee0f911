"""Allocations that read the scores: layers with better units keep more of them."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxprune import selection, trees
from jaxprune.allocation.choice import best_of_tree, is_units, keep_chosen
from jaxprune.allocation.counts import (
    Layers,
    apportion,
    check_floor,
    each_layer,
    raise_to_floors,
    share_among_contests,
    survivors,
)
from jaxprune.arrays.precision import widen
from jaxprune.arrays.shardings import sharded_like, whole
from jaxprune.calls import text
from jaxprune.parts import factory
from jaxprune.types import Allocation, Params, Sparsity, Units

__all__ = ["global_budget", "owl", "threshold"]


@factory
def global_budget(
    normalize: Literal["lamp", "l2"] | Callable | None = None,
    *,
    at_least: int = 0,
    at_most: float = 1.0,
) -> Allocation:
    """Returns the allocation of one budget for all leaves: the best units of the whole tree survive.

    By default a layer whose units are all worse than those of other layers loses all of them, which cuts the
    network: that is the published behaviour. `at_least` and `at_most` prevent it: they protect the best units
    of each layer, and the rest of the budget goes to the best of all other units. The protected units are
    kept even if they exceed the budget.

    Args:
      normalize: how scores of different leaves are made comparable. `None`: they are compared as they
        are. `"lamp"`: $s_u^2$ over the sum of the squares of its leaf's scores that are not smaller
        (sorts each leaf: slow on CPU); scores below 0 count as 0. `"l2"`: scores over their leaf's norm. Or
        a function of the scores of one leaf that does not change their order.
      at_least: fewest units that a layer keeps (all if it has fewer).
      at_most: largest fraction that any one layer loses; its number of units is rounded down.

    Returns:
      An allocation, which also says which units are kept. Where a leaf has many contests (N:M), each keeps
      the leaf's count divided by their number, rounded.

    Raises:
      ValueError: if `normalize` or `at_most` is invalid; when it is used, if the function `normalize` does
        not return one score per unit.

    References:
      Lee, Park, Mo, Ahn & Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021) for
      LAMP.

    >>> params = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0, 4.0, 5.0, 0.0])}
    >>> keep = global_budget()(params, jax.tree.map(Units, params), 0.5)
    >>> int(keep["a"].count), int(keep["b"].count)
    (1, 2)
    >>> keep = global_budget(at_most=0.75)(params, jax.tree.map(Units, params), 2 / 3)
    >>> {name: layer.chosen.tolist() for name, layer in keep.items()}  # without it, 4 and 5 would stay
    {'a': [True, False], 'b': [False, False, True, False]}
    """
    check_floor("global_budget", at_least)
    if not 0 <= at_most <= 1:
        raise ValueError(
            f"global_budget(at_most={at_most}): a fraction removed, in [0, 1], is needed."
        )
    scales: dict[Any, Callable] = {None: lambda scores: scores, "lamp": _lamp, "l2": _l2}
    scale = scales.get(normalize, normalize)
    if not callable(scale):
        raise ValueError(
            f"global_budget(normalize={normalize!r}): None, 'lamp', 'l2' or a function."
        )

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        del params
        units_by_leaf, treedef = jax.tree.flatten(units, is_leaf=is_units)
        layers = Layers(units_by_leaf)
        kept_count = survivors(layers.total, sparsity)

        def scale_layer(layer_scores: jax.Array) -> jax.Array:
            scaled = scale(layer_scores)
            if jnp.shape(scaled) != layer_scores.shape:
                raise ValueError(
                    f"global_budget(normalize={text(normalize)}): it returned an array of the shape "
                    f"{jnp.shape(scaled)} for scores of the shape {layer_scores.shape}; return one score for "
                    "each."
                )
            return scaled

        scores: Any = [
            each_layer(scale_layer, leaf_units.layers)(leaf_units.known)
            for leaf_units in units_by_leaf
        ]
        among = [leaf_units.among for leaf_units in units_by_leaf]
        if at_least == 0 and at_most == 1:
            chosen = selection.top(scores, kept_count, among)
        else:
            floors = layers.split(layers.floors(at_least, at_most))
            chosen = best_of_tree(scores, units_by_leaf, kept_count, floors, among)
        return jax.tree.unflatten(treedef, keep_chosen(units_by_leaf, chosen))

    return Allocation(allocate)


def _may_be_kept(leaf_units: Units) -> jax.Array:
    """Returns a bool array: which units may be kept."""
    return jnp.ones_like(leaf_units.scores, bool) if leaf_units.among is None else leaf_units.among


def _over_largest(scores: jax.Array) -> jax.Array:
    """Returns scores over the largest finite size among them: their squares can be summed in float32."""
    scores = widen(scores)
    sizes = jnp.where(jnp.isfinite(scores), jnp.abs(scores), 0)
    largest = jnp.max(sizes, initial=0)
    return scores / jnp.where(largest > 0, largest, 1)


def _l2(scores: jax.Array) -> jax.Array:
    """Returns scores over their L2 norm."""
    scaled = _over_largest(scores)
    finite = jnp.where(jnp.isfinite(scaled), scaled, 0)
    return scaled / jnp.maximum(jnp.sqrt(jnp.sum(finite**2)), 1)


def _lamp(scores: jax.Array) -> jax.Array:
    """Returns scores over the root of the sum of the squares that are not smaller."""
    scaled = jnp.nan_to_num(_over_largest(scores), nan=0, posinf=2)
    # A leaf is sorted whole, which a compiler of explicit shardings does not gather by itself.
    positive = whole(jnp.maximum(scaled, 0)).reshape(-1)
    order = jnp.argsort(positive)
    ascending = positive[order]
    tail_sums = jnp.cumsum(ascending[::-1] ** 2)[::-1]  # over weights that are not smaller
    smallest = jnp.finfo(jnp.float32).tiny
    lamp = ascending / jnp.sqrt(jnp.maximum(tail_sums, smallest))
    in_place = jnp.zeros_like(positive).at[order].set(lamp).reshape(scores.shape)
    return sharded_like(in_place, scores)


@factory
def threshold(quality: float, *, at_least: int = 1) -> Allocation:
    r"""Returns the allocation that keeps the units whose scores reach a threshold of their layer.

    The threshold is $q$ times the root mean square of the layer's scores; for weights with mean zero, scored
    by magnitude, that is $q$ standard deviations. Only units that are alive count. The sparsity follows from
    the weights: the schedule's sparsity is not read.

    Args:
      quality: $q$, above 0.
      at_least: fewest units that a layer keeps, or all that it has, where fewer reach the threshold; 0
        allows that it is emptied, as $q > 1$ may do.

    Returns:
      An allocation.

    Raises:
      ValueError: if `quality` is not above 0.

    References:
      Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks"
      (2015), section 3.1.

    >>> params = {"w": jnp.array([3.0, -4.0, 0.1, 0.2])}
    >>> int(threshold(1.0)(params, {"w": Units(jnp.abs(params["w"]))}, 0.0)["w"])
    2
    """
    check_floor("threshold", at_least)
    if not quality > 0:
        raise ValueError(f"threshold(quality={quality}): a number above 0 is needed.")

    def count_above_threshold(scores: jax.Array, among: jax.Array) -> jax.Array:
        counted = among & jnp.isfinite(scores)
        scaled = _over_largest(jnp.where(counted, scores, 0))
        limit = quality * jnp.sqrt(jnp.sum(scaled**2) / jnp.maximum(jnp.sum(counted), 1))
        return jnp.sum(counted & (scaled >= limit), dtype=jnp.int32)

    def count_in_contests(leaf_units: Units | None) -> jax.Array | None:
        if leaf_units is None:
            return None
        count_by_layer = each_layer(count_above_threshold, leaf_units.layers, numbers=True)
        count = share_among_contests(
            count_by_layer(leaf_units.scores, _may_be_kept(leaf_units)), leaf_units.contests
        )
        return jnp.maximum(
            count, jnp.minimum(-(-at_least // leaf_units.contests), leaf_units.budgeted)
        )

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        units_by_leaf = trees.beside(params, units)
        return jax.tree.structure(params).unflatten(map(count_in_contests, units_by_leaf))

    return Allocation(allocate)


@factory
def owl(*, outlier: float = 5.0, spread: float = 0.08, at_least: int = 1) -> Allocation:
    r"""Returns the allocation that keeps more of layers with more outliers among their scores.

    The density of layer $l$ is $1 - s + \delta_l$, with $\delta_l$ in a range of $2 \lambda$, linear in the
    share of its scores above $M$ times their mean and such that the whole tree keeps its budget.

    Args:
      outlier: $M$, times the mean of a layer's scores.
      spread: $\lambda$, a fraction of weights; the densities of two layers differ by $2 \lambda$ at most.
      at_least: fewest units that a layer keeps (all if it has fewer); with 0 it may lose all. The layers
        furthest above it pay for it, so that the total is kept, unless the floors together are more.

    Returns:
      An allocation.

    Raises:
      ValueError: if `outlier` is not above 0, or `spread` not in [0, 0.5].

    References:
      Yin et al., "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High
      Sparsity" (2024), for the scores of Wanda. Departures: by layer, where the paper shares outliers among
      the layers of a block; the mean of $\delta$ over weights is zero, not over layers: the budget is kept.

    >>> params = {"a": jnp.ones(100), "b": jnp.ones(100).at[0].set(100.0)}
    >>> jax.tree.map(int, owl()(params, jax.tree.map(Units, params), 0.5))
    {'a': 42, 'b': 58}
    """
    check_floor("owl", at_least)
    if not outlier > 0 or not 0 <= spread <= 0.5:
        raise ValueError(
            f"owl(outlier={outlier}, spread={spread}): above 0, and within [0, 0.5], are needed."
        )

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        units_by_leaf, treedef = jax.tree.flatten(units, is_leaf=is_units)
        layers = Layers(units_by_leaf)
        sizes = layers.sizes
        outlier_shares = layers.joined(
            [
                each_layer(outlier_share, leaf_units.layers, numbers=True)(
                    leaf_units.scores, _may_be_kept(leaf_units)
                )
                for leaf_units in units_by_leaf
            ]
        )
        width = jnp.max(outlier_shares) - jnp.min(outlier_shares)
        from_least = outlier_shares - jnp.min(outlier_shares)
        raw_delta = from_least / jnp.maximum(width, 1e-30) * 2 * spread
        kept_count = survivors(layers.total, sparsity)
        mean_density = kept_count / layers.total
        delta = raw_delta - jnp.sum(sizes / layers.total * raw_delta)
        room = jnp.where(delta > 0, 1 - mean_density, mean_density)
        # Where a layer would keep more than all, or less than none, all differences are made smaller.
        shrinkage = jnp.minimum(1, jnp.min(room / jnp.maximum(jnp.abs(delta), 1e-30)))
        density = jnp.clip(mean_density + shrinkage * delta, 0, 1)
        counts = raise_to_floors(apportion(density, sizes, kept_count), layers.floors(at_least))
        return jax.tree.unflatten(treedef, layers.in_contests(counts))

    def outlier_share(scores: jax.Array, among: jax.Array) -> jax.Array:
        """Returns the share of a layer's units whose score is an outlier."""
        counted = among & jnp.isfinite(scores)
        counted_scores = jnp.where(counted, scores, 0).astype(jnp.float32)
        count = jnp.maximum(jnp.sum(counted), 1)
        limit = outlier * jnp.sum(counted_scores) / count
        return jnp.sum(counted & (counted_scores > limit)) / count

    return Allocation(allocate)
