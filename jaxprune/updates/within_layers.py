"""Updates that leave each layer its budget: prune, select anew, drop and regrow, splice."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxprune.allocation.counts import Layers, each_layer
from jaxprune.parts import factory
from jaxprune.types import Criterion, Fraction, Step, Update
from jaxprune.updates.fractions import check_fraction, share_of
from jaxprune.updates.selecting import (
    KeepPerLeaf,
    MaskPerLeaf,
    UnitsPerLeaf,
    best_on_masks,
    best_units,
    count_beside,
    count_per_contest,
    grow,
)

__all__ = ["prune", "regrow", "reselect", "splice"]


@factory
def prune() -> Update:
    """Returns the update that keeps the best units of those on the mask; removed units do not return.

    Returns:
      An update for `jaxprune.Method`; most methods that begin dense use it.

    >>> import jaxprune as jp
    >>> half = jp.schedules.never(sparsity=0.5)
    >>> method = jp.Method(jp.criteria.magnitude, schedule=half, update=prune())
    >>> params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    >>> jp.next_masks(method, params, {"w": jnp.array([[True, True, True, False]])}, 0)  # 4 stays off
    {'w': Array([[False,  True,  True, False]], dtype=bool)}
    """

    def select(
        alive: MaskPerLeaf,
        units: UnitsPerLeaf,
        grow_scores: UnitsPerLeaf,
        keep: KeepPerLeaf,
        step: Step,
    ) -> list[jax.Array]:
        return [mask & best for mask, best in zip(alive, best_units(units, keep), strict=True)]

    return Update(select)


@factory
def reselect() -> Update:
    """Returns the update that keeps the best of all units: removed ones return if they score high enough.

    Returns:
      An update for `jaxprune.Method`, for criteria that can score removed units: with
      `jaxprune.straight_through`, or with an accumulated signal.

    >>> import jaxprune as jp
    >>> half = jp.schedules.never(sparsity=0.5)
    >>> method = jp.Method(jp.criteria.magnitude, schedule=half, update=reselect())
    >>> params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    >>> jp.next_masks(method, params, {"w": jnp.array([[True, True, True, False]])}, 0)
    {'w': Array([[False, False,  True,  True]], dtype=bool)}
    """

    def select(
        alive: MaskPerLeaf,
        units: UnitsPerLeaf,
        grow_scores: UnitsPerLeaf,
        keep: KeepPerLeaf,
        step: Step,
    ) -> list[jax.Array]:
        return best_units(units, keep)

    return Update(select, ranks_dead_units=True)


@factory
def regrow(
    grow_criterion: Criterion,
    *,
    fraction: Fraction = 0.3,
    skip_gradient: bool = False,
) -> Update:
    """Returns the update that drops a fraction of the kept units and regrows as many by another criterion.

    Of the `n` kept units of a leaf, the best `n - round(fraction * n)` stay. All other units, those just
    dropped included, then compete by `grow_criterion`, within their contest, and the best are regrown. The
    counts are exact: also with N:M patterns each group regrows as many as it has lost.

    Args:
      grow_criterion: scores the units to regrow, by the size of the gradient (RigL) or at random (SET).
      fraction: share of the kept units that is dropped and regrown, in [0, 1]; a number, or a function of the
        update's index, such as `cosine`.
      skip_gradient: whether weights stay as they are in the update that changes the masks, as in the RigL
        paper. The wrapped optimizer still counts the step, so learning-rate schedules keep in step with the
        updates.

    Returns:
      An update for `jaxprune.Method`.

    Raises:
      ValueError: if the fraction is a number outside [0, 1].

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020);
      Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity
      inspired by Network Science" (2018).

    >>> import jaxprune as jp
    >>> update = regrow(jp.criteria.gradient, fraction=0.5)  # of two places one is dealt out anew
    >>> method = jp.Method(jp.criteria.magnitude, schedule=jp.schedules.never(sparsity=0.5), update=update)
    >>> params = {"w": jnp.array([[4.0, 3.0, 0.0, 0.0]])}
    >>> masks = {"w": jnp.array([[True, True, False, False]])}
    >>> jp.next_masks(method, params, masks, 0, grads={"w": jnp.array([[0.0, 0.0, 1.0, 9.0]])})
    {'w': Array([[ True, False, False,  True]], dtype=bool)}
    """

    check_fraction("regrow", fraction)

    def select(
        alive: MaskPerLeaf,
        units: UnitsPerLeaf,
        grow_scores: UnitsPerLeaf,
        keep: KeepPerLeaf,
        step: Step,
    ) -> list[jax.Array]:
        share = fraction(step) if callable(fraction) else fraction
        within_budget = _within_budget(alive, units, keep)
        layers = Layers(units)
        places = layers.joined([leaf_keep.count for leaf_keep in keep]) * layers.contests
        kept_counts = layers.split(places - share_of(share, places))
        staying = best_on_masks(within_budget, units, kept_counts)
        return grow(staying, grow_scores, _free_places(keep, units, staying))

    return Update(select, grow_criterion, skip_gradient=skip_gradient)


@factory
def splice(c: float = 0.0, margin: float = 0.1) -> Update:
    r"""Returns the update that removes units below one threshold and brings them back above another.

    With mean $\mu$ and standard deviation $\sigma$ of a leaf's scores and $t = \max(\mu + c\sigma, 0)$, a
    unit is removed below $(1 - m)\,t$ and returns above $(1 + m)\,t$; in between it does not change. The
    sparsity follows from the scores: the budget is not read. A layer of which nothing would be left keeps its
    best units.

    Args:
      c: distance of $t$ from the mean, in standard deviations.
      margin: $m$, half the width of the band without a change, as a share of $t$, in [0, 1).

    Returns:
      An update for `jaxprune.Method`, for patterns whose leaves are one contest each.

    Raises:
      ValueError: if `margin` is outside [0, 1), or `c` is not finite.

    References:
      Guo, Yao & Chen, "Dynamic Network Surgery for Efficient DNNs" (2016), equation 3. Departure: mean
      and deviation are computed at each update, not once at the start.

    >>> import jaxprune as jp
    >>> method = jp.Method(jp.criteria.magnitude, schedule=jp.schedules.never(), update=splice())
    >>> params = {"w": jnp.array([[1.0, 3.0, 2.0, 2.0]])}  # mean 2: cut below 1.8, back above 2.2
    >>> jp.next_masks(method, params, {"w": jnp.array([[True, False, True, False]])}, 0)
    {'w': Array([[False,  True,  True, False]], dtype=bool)}
    """
    if not 0 <= margin < 1:
        raise ValueError(f"splice(margin={margin}): a number in [0, 1) is needed.")

    def splice_layer(alive: jax.Array, scores: jax.Array) -> jax.Array:
        finite = jnp.isfinite(scores)
        deviation = jnp.std(scores, where=finite)
        threshold = jnp.maximum(jnp.mean(scores, where=finite) + c * deviation, 0)
        above = scores > (1 + margin) * threshold
        mask = above | (alive & (scores >= (1 - margin) * threshold))
        # A layer that would be emptied keeps its best units.
        return mask | (~jnp.any(mask) & (scores >= jnp.max(scores, initial=-jnp.inf)))

    def select(
        alive: MaskPerLeaf,
        units: UnitsPerLeaf,
        grow_scores: UnitsPerLeaf,
        keep: KeepPerLeaf,
        step: Step,
    ) -> list[jax.Array]:
        pairs = zip(alive, units, strict=True)
        return [
            each_layer(splice_layer, leaf_units.layers)(mask, leaf_units.scores)
            for mask, leaf_units in pairs
        ]

    return Update(select, ranks_dead_units=True, whole_leaves=True)


def _free_places(
    keep: KeepPerLeaf, units: UnitsPerLeaf, staying: MaskPerLeaf
) -> Sequence[jax.Array]:
    """How many places of each contest are left beside the units that stay, by leaf."""
    if all(leaf_units.axis is None for leaf_units in units):
        layers = Layers(units)
        places = layers.joined([leaf_keep.count for leaf_keep in keep])
        return layers.split(places - layers.marked(staying))
    return [
        count_beside(leaf_keep, leaf_units) - count_per_contest(mask, leaf_units)
        for leaf_keep, leaf_units, mask in zip(keep, units, staying, strict=True)
    ]


def _within_budget(alive: MaskPerLeaf, units: UnitsPerLeaf, keep: KeepPerLeaf) -> MaskPerLeaf:
    """Masks of the units that a budget leaves in each contest, of those alive."""
    if all(leaf_units.axis is None for leaf_units in units):
        return alive  # the one contest is decided when some of them are dropped
    return [mask & best for mask, best in zip(alive, best_units(units, keep), strict=True)]
