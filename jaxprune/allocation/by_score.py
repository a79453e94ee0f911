"""Allocations that the scores decide: which layers have the better units."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxprune import selection, trees
from jaxprune.allocation.choice import best_of_tree, keep_chosen
from jaxprune.allocation.counts import (
    Layers,
    apportion,
    check_floor,
    each_layer,
    floored,
    survivors,
)
from jaxprune.parts import factory
from jaxprune.types import Allocation, Params, Sparsity, Units

__all__ = ["global_budget", "owl", "threshold"]

_is_units = lambda x: isinstance(x, Units)


@factory
def global_budget(
    normalize: Literal["lamp", "l2"] | Callable | None = None,
    *,
    at_least: int = 0,
    at_most: float = 1.0,
) -> Allocation:
    """All leaves share one budget: the best units of the whole tree survive.

    A layer whose units are all worse than others loses all of them, which cuts the network: that is the
    published behaviour. `at_least` and `at_most` prevent it: the best units of each layer that they protect
    stay, and the rest of the budget goes to the best of all others. If what they protect is more than the
    budget, it is kept all the same.

    Args:
      normalize: how scores of different leaves are made comparable. `None`: they are compared as they
        are. `"lamp"`: $s_u^2$ over the sum of the squares of its leaf's scores that are not smaller
        (sorts each leaf: slow on CPU). `"l2"`: scores over their leaf's norm. Or a function of the
        scores of one leaf that does not change their order.
      at_least: fewest units that a layer keeps, or all that it has.
      at_most: largest fraction that any one layer loses; its number of units is rounded down.

    Returns:
      Counts, together with the choice that gave them. Where a leaf has many contests, each keeps the
      leaf's count divided by their number, rounded.

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
    scale = {None: lambda scores: scores, "lamp": _lamp, "l2": _l2}.get(normalize, normalize)  # type: ignore[arg-type]
    if not callable(scale):
        raise ValueError(
            f"global_budget(normalize={normalize!r}): None, 'lamp', 'l2' or a function."
        )

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        del params
        found, treedef = jax.tree.flatten(units, is_leaf=_is_units)
        layers = Layers(found)
        total = survivors(jnp.sum(layers.sizes), sparsity)
        scores: Any = [each_layer(scale, u.layers)(u.known) for u in found]
        among = [u.among for u in found]
        if at_least == 0 and at_most == 1:
            chosen = selection.top(scores, total, among)
        else:
            floors = layers.split(layers.floors(at_least, at_most))
            chosen = best_of_tree(scores, found, total, floors, among)
        return jax.tree.unflatten(treedef, map(keep_chosen, found, chosen))

    return Allocation(allocate)


def _among(units: Units) -> jax.Array:
    """Which units may be kept, as an array."""
    return jnp.ones_like(units.scores, bool) if units.among is None else units.among


def _l2(scores: jax.Array) -> jax.Array:
    finite = jnp.where(jnp.isfinite(scores), scores, 0).astype(jnp.float32)
    return scores / jnp.maximum(jnp.sqrt(jnp.sum(finite**2)), 1e-30)


def _lamp(scores: jax.Array) -> jax.Array:
    largest = jnp.finfo(jnp.float32).max ** 0.25  # its square can be summed
    finite = jnp.nan_to_num(scores.astype(jnp.float32), nan=0, posinf=largest, neginf=0)
    flat = finite.reshape(-1) ** 2
    order = jnp.argsort(flat)
    ascending = flat[order]
    tail = jnp.cumsum(ascending[::-1])[::-1]  # the sum over weights that are not smaller
    lamp = jnp.zeros_like(flat).at[order].set(ascending / jnp.maximum(tail, 1e-30))
    return lamp.reshape(scores.shape)


@factory
def threshold(quality: float, *, at_least: int = 1) -> Allocation:
    r"""A unit survives whose score is at least $q$ times the root mean square of its leaf's.

    For weights around zero, scored by magnitude, that is a threshold of $q$ standard deviations. Only
    the living count. How sparse that is, the weights decide: the schedule's sparsity is not read.

    Args:
      quality: $q$.
      at_least: fewest units that a layer keeps, or all that it has, where fewer reach the threshold; 0
        allows that it is emptied, as $q > 1$ may do.

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

    def strong(scores: jax.Array, among: jax.Array) -> jax.Array:
        known = among & jnp.isfinite(scores)
        squares = jnp.sum(jnp.where(known, scores, 0) ** 2)
        limit = quality * jnp.sqrt(squares / jnp.maximum(jnp.sum(known), 1))
        return jnp.sum(known & (scores >= limit), dtype=jnp.int32)

    def count(unit: Units | None) -> jax.Array | None:
        if unit is None:
            return None
        total = each_layer(strong, unit.layers, numbers=True)(unit.scores, _among(unit))
        reached = (total + unit.contests // 2) // unit.contests
        return jnp.maximum(reached, jnp.minimum(-(-at_least // unit.contests), unit.budgeted))

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        found = trees.beside(params, units)
        return jax.tree.structure(params).unflatten(map(count, found))

    return Allocation(allocate)


@factory
def owl(*, outlier: float = 5.0, spread: float = 0.08, at_least: int = 1) -> Allocation:
    r"""Layers with more outliers among their scores keep more of them.

    The density of layer $l$ is $1 - s + \delta_l$, with $\delta_l$ in a range of $2 \lambda$, linear in the
    share of its scores above $M$ times their mean and such that the whole tree keeps its budget.

    Args:
      outlier: $M$.
      spread: $\lambda$; the densities of two layers differ by $2 \lambda$ at most.
      at_least: fewest units that a layer keeps, or all that it has; 0 allows that it is emptied. The layers
        furthest above it pay for it, so that the total is kept, unless the floors together are more.

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
        found, treedef = jax.tree.flatten(units, is_leaf=_is_units)

        def share(given: jax.Array, among: jax.Array) -> jax.Array:
            known = among & jnp.isfinite(given)
            scores = jnp.where(known, given, 0).astype(jnp.float32)
            count = jnp.maximum(jnp.sum(known), 1)
            return jnp.sum(known & (scores > outlier * jnp.sum(scores) / count)) / count

        layers = Layers(found)
        sizes = layers.sizes
        weight = sizes / jnp.sum(sizes)
        shares = layers.joined(
            [each_layer(share, u.layers, numbers=True)(u.scores, _among(u)) for u in found]
        )
        width = jnp.max(shares) - jnp.min(shares)
        delta = (shares - jnp.min(shares)) / jnp.maximum(width, 1e-30) * 2 * spread
        total = survivors(jnp.sum(sizes), sparsity)
        mean, delta = total / jnp.sum(sizes), delta - jnp.sum(weight * delta)
        room = jnp.where(delta > 0, 1 - mean, mean) / jnp.maximum(jnp.abs(delta), 1e-30)
        density = (
            mean + jnp.minimum(1, jnp.min(room)) * delta
        )  # narrower where a leaf would be full
        counts = floored(apportion(jnp.clip(density, 0, 1), sizes, total), layers.floors(at_least))
        return jax.tree.unflatten(treedef, layers.in_contests(counts))

    return Allocation(allocate)
