"""Updates: how old masks become new ones.

Each is `(alive, units, grow_scores, keep, step) -> alive`, over lists with one element per prunable leaf, so
that one search serves all leaves. Units off the mask cannot be kept (`Units.among`), unless the update
`ranks_dead_units`.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import selection
from jaxprune.allocation.choice import best_of_tree
from jaxprune.allocation.counts import Layers, check_floor, each_layer
from jaxprune.parts import factory
from jaxprune.types import Criterion, Fraction, Keep, Share, Step, Units, Update

__all__ = [
    "by_signal",
    "by_survivors",
    "cosine",
    "prune",
    "redistribute",
    "regrow",
    "reselect",
    "splice",
]


def __dir__() -> list[str]:
    return sorted(__all__)


# One element per prunable leaf.
_Masks: TypeAlias = Sequence[jax.Array]
_Units: TypeAlias = Sequence[Units]
_Keep: TypeAlias = Sequence[Keep]


def best_units(units: Sequence[Units], keep: Sequence[Keep]) -> list[jax.Array]:
    """Returns masks of the `count` best units of each contest; equal scores are taken in index order."""
    masks = [leaf_keep.chosen for leaf_keep in keep]
    for index, (leaf_units, leaf_keep) in enumerate(zip(units, keep, strict=True)):
        if masks[index] is None and (leaf_units.axis is not None or leaf_units.layers):
            count = _count_beside(leaf_keep, leaf_units)
            axes = leaf_units.contest_axes
            masks[index] = selection.top_along(leaf_units.scores, count, axes, leaf_units.among)
    # Leaves that are one contest each are searched together.
    remaining = [index for index, mask in enumerate(masks) if mask is None]
    remaining_masks = selection.top_each(
        [units[index].scores for index in remaining],
        [keep[index].count for index in remaining],
        [units[index].among for index in remaining],
    )
    for index, mask in zip(remaining, remaining_masks, strict=True):
        masks[index] = mask
    return masks  # type: ignore[return-value]


def _count_beside(keep: Keep, units: Units) -> jax.Array | int:
    """Survivors in the shape that broadcasts against the units, given per layer, or per contest already."""
    is_per_contest = jnp.ndim(keep.count) == units.scores.ndim
    return keep.count if is_per_contest else units.beside(keep.count)


@factory
def prune() -> Update:
    """Returns the update that keeps the best units of those on the mask; what is off it stays off.

    Returns:
      An update for `jaxprune.Method`; that of most methods that begin dense.

    >>> import jaxprune as jp
    >>> half = jp.schedules.never(sparsity=0.5)
    >>> method = jp.Method(jp.criteria.magnitude, schedule=half, update=prune())
    >>> params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    >>> jp.next_masks(method, params, {"w": jnp.array([[True, True, True, False]])}, 0)  # 4 stays off
    {'w': Array([[False,  True,  True, False]], dtype=bool)}
    """

    def select(
        alive: _Masks, units: _Units, grow_scores: _Units, keep: _Keep, step: Step
    ) -> list[jax.Array]:
        return [mask & best for mask, best in zip(alive, best_units(units, keep), strict=True)]

    return Update(select)


@factory
def reselect() -> Update:
    """Returns the update that keeps the best of all units: one whose score has grown comes back.

    Returns:
      An update for `jaxprune.Method`, for criteria that know units off the mask: under
      `jaxprune.straight_through`, or with a memory.

    >>> import jaxprune as jp
    >>> half = jp.schedules.never(sparsity=0.5)
    >>> method = jp.Method(jp.criteria.magnitude, schedule=half, update=reselect())
    >>> params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    >>> jp.next_masks(method, params, {"w": jnp.array([[True, True, True, False]])}, 0)
    {'w': Array([[False, False,  True,  True]], dtype=bool)}
    """

    def select(
        alive: _Masks, units: _Units, grow_scores: _Units, keep: _Keep, step: Step
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
    """Returns the update that drops a fraction of the units and grows as many by another criterion.

    Of the `n` places of a leaf, the `n - round(fraction * n)` best units keep theirs; every other unit,
    the ones just dropped included, competes for the rest by `grow_criterion`, within its contest.
    The counts are exact: with N:M patterns, too, each group regrows what it has lost.

    Args:
      grow_criterion: by which units off the mask are grown: the size of the gradient (RigL) or chance (SET).
      fraction: share of the places that is dealt out anew, in [0, 1]; a number, or a function of the update's
        index, such as `cosine`.
      skip_gradient: leave the weights alone in the update that changes the masks, as the RigL paper
        does. The wrapped optimizer still counts the step, so learning-rate schedules do not slip.

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

    _check_fraction("regrow", fraction)

    def select(
        alive: _Masks, units: _Units, grow_scores: _Units, keep: _Keep, step: Step
    ) -> list[jax.Array]:
        share = fraction(step) if callable(fraction) else fraction
        within_budget = _within_budget(alive, units, keep)
        pairs = list(zip(keep, units, strict=True))
        dropped_counts = [_share_of(share, k.count * u.contests) for k, u in pairs]
        kept_counts = [
            k.count * u.contests - dropped
            for (k, u), dropped in zip(pairs, dropped_counts, strict=True)
        ]
        staying = _best_on_masks(within_budget, units, kept_counts)
        grown_counts = [
            _count_beside(k, u) - _count_per_contest(mask, u)
            for (k, u), mask in zip(pairs, staying, strict=True)
        ]
        return _grow(staying, grow_scores, grown_counts)

    return Update(select, grow_criterion, skip_gradient=skip_gradient)


@factory
def redistribute(
    grow_criterion: Criterion,
    *,
    fraction: Fraction = 0.3,
    shares: Callable[[Sequence[jax.Array], Sequence[jax.Array]], Sequence[jax.Array]],
    pooled: bool = False,
    at_least: int = 1,
) -> Update:
    """Returns the update that drops a fraction of the units and deals their places out among all leaves.

    The number of places of the whole tree is that of the allocation; how they lie among the leaves
    changes. What a leaf cannot take goes to the others. Places are units: with channels of different
    sizes, their number stays, not that of the weights.

    Args:
      grow_criterion: by which units off the mask are grown.
      fraction: share of the places that is dealt out anew, in [0, 1]; a number, or a function of the update's
        index, such as `cosine`.
      shares: (survivors, scores by `grow_criterion`), lists of arrays with one element per layer -> what each
        layer is to get of the places, nonnegative and in any unit: `by_survivors`, `by_signal`.
      pooled: drop the worst of the whole tree, instead of a fraction of each leaf.
      at_least: fewest places that a layer has, or all that it can take; the best of its own keep them, and
        where those are dropped they are the first that are dealt out. 0 allows that it is emptied.

    Returns:
      An update for `jaxprune.Method`, for patterns whose leaves are one contest each.

    Raises:
      ValueError: if the fraction is a number outside [0, 1], or the floor is below 0.

    References:
      Mostafa & Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic
      Sparse Reparameterization" (2019); Dettmers & Zettlemoyer, "Sparse Networks from Scratch: Faster
      Training without Losing Performance" (2019).

    >>> import jaxprune as jp
    >>> update = redistribute(jp.criteria.gradient, fraction=0.5, shares=by_survivors, pooled=True)
    >>> method = jp.Method(jp.criteria.magnitude, schedule=jp.schedules.never(sparsity=0.5), update=update)
    >>> weights = jnp.array([[8.0, 7.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0]])
    >>> params = {"a": weights, "b": weights / 10}
    >>> masks = {"a": weights > 0, "b": weights > 0}
    >>> after = jp.next_masks(method, params, masks, 0, grads=params)
    >>> [int(mask.sum()) for mask in after.values()]  # `b` keeps one weight, and a share as small
    [7, 1]
    """

    _check_fraction("redistribute", fraction)
    check_floor("redistribute", at_least)

    def select(
        alive: _Masks, units: _Units, grow_scores: _Units, keep: _Keep, step: Step
    ) -> list[jax.Array]:
        share = fraction(step) if callable(fraction) else fraction
        layers = Layers(units)
        total = jnp.sum(layers.joined([jnp.asarray(leaf_keep.count) for leaf_keep in keep]))
        floors = layers.floors(at_least)
        if pooled:
            staying = _best_of_tree(alive, units, total - _share_of(share, total), floors)
        else:
            within_budget = _best_of_tree(alive, units, total, floors)
            counts = [_count_per_layer(m, u) for m, u in zip(within_budget, units, strict=True)]
            kept_counts = [count - _share_of(share, count) for count in counts]
            staying = _best_on_masks(within_budget, units, kept_counts)
        staying_counts = layers.joined(
            [_count_per_layer(mask, u) for mask, u in zip(staying, units, strict=True)]
        )
        sizes = layers.repeated([leaf_units.members for leaf_units in units])
        staying_rows = [_layer_rows(mask, u) for mask, u in zip(staying, units, strict=True)]
        score_rows = [_layer_rows(leaf_units.scores, leaf_units) for leaf_units in grow_scores]
        wanted = shares(_concatenated(staying_rows), _concatenated(score_rows))
        wanted_shares = jnp.stack(list(wanted)).astype(jnp.float32)
        # Layers below their floor are filled up to it, before the rest is dealt out.
        floor_places = jnp.maximum(floors - staying_counts, 0)
        more_places = jnp.maximum(total - jnp.sum(staying_counts + floor_places), 0)
        room = jnp.asarray(sizes - staying_counts) - floor_places
        grown_counts = floor_places + _deal_out(more_places, wanted_shares, room)
        return _grow(staying, grow_scores, layers.split(grown_counts))

    return Update(select, grow_criterion, whole_leaves=True)


def by_survivors(staying: Sequence[jax.Array], grow_scores: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns shares of the places by what has survived: a layer that keeps more grows more (DSR).

    Args:
      staying: bool arrays, one per layer: the units that have not been dropped.
      grow_scores: scores of the units by `redistribute`'s criterion, one array per layer; not read.

    Returns:
      float32 scalars, one per layer: the number of survivors.

    References:
      Mostafa & Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic
      Sparse Reparameterization" (2019).

    >>> [float(s) for s in by_survivors([jnp.array([True, True]), jnp.array([False, True])], [])]
    [2.0, 1.0]
    """
    return [jnp.sum(mask).astype(jnp.float32) for mask in staying]


def by_signal(staying: Sequence[jax.Array], grow_scores: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns shares of the places by the mean score of the survivors (SNFS, with the momentum).

    Args:
      staying: bool arrays, one per layer: the units that have not been dropped.
      grow_scores: scores of the units by `redistribute`'s criterion, one array per layer.

    Returns:
      Scalars, one per layer: the mean size of the score over the survivors.

    References:
      Dettmers & Zettlemoyer, "Sparse Networks from Scratch: Faster Training without Losing Performance"
      (2019).

    >>> [float(s) for s in by_signal([jnp.array([True, False])], [jnp.array([3.0, 5.0])])]
    [3.0]
    """

    def mean_of_survivors(mask: jax.Array, sizes: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, sizes, 0)) / jnp.maximum(jnp.sum(mask), 1)

    pairs = zip(staying, grow_scores, strict=True)
    return [mean_of_survivors(mask, jnp.abs(scores)) for mask, scores in pairs]


@factory
def splice(c: float = 0.0, margin: float = 0.1) -> Update:
    r"""Returns the update that cuts what is small and brings back what has grown, by two thresholds per leaf.

    With mean $\mu$ and standard deviation $\sigma$ of a leaf's scores and $t = \max(\mu + c\sigma, 0)$,
    a unit goes below $(1 - m)\,t$ and comes back above $(1 + m)\,t$; in between it stays what it is. How
    sparse that is, the weights decide: the budget is not read. A layer of which nothing would be left keeps
    its best units.

    Args:
      c: how far the threshold lies above the mean, in standard deviations.
      margin: $m$, half the width of the band without a change, as a share of $t$, in [0, 1).

    Returns:
      An update for `jaxprune.Method`, for patterns whose leaves are one contest each.

    Raises:
      ValueError: if the margin is outside [0, 1).

    References:
      Guo, Yao & Chen, "Dynamic Network Surgery for Efficient DNNs" (2016), equation 3. Departure: mean
      and deviation are those of the moment, not of the start.

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
        alive: _Masks, units: _Units, grow_scores: _Units, keep: _Keep, step: Step
    ) -> list[jax.Array]:
        pairs = zip(alive, units, strict=True)
        return [each_layer(splice_layer, u.layers)(mask, u.scores) for mask, u in pairs]

    return Update(select, ranks_dead_units=True, whole_leaves=True)


def _check_fraction(name: str, fraction: Fraction) -> None:
    if not callable(fraction) and not 0 <= fraction <= 1:
        raise ValueError(
            f"{name}(fraction={fraction}): a share of the places, in [0, 1], is needed."
        )


def _within_budget(alive: _Masks, units: _Units, keep: _Keep) -> _Masks:
    """Masks of the units that a budget leaves in each contest, of those alive."""
    if all(leaf_units.axis is None for leaf_units in units):
        return alive  # the one contest is decided when some of them are dropped
    return [mask & best for mask, best in zip(alive, best_units(units, keep), strict=True)]


def _share_of(share: jax.Array | float, count: jax.Array | int) -> jax.Array:
    """A share of a count, rounded."""
    return jnp.round(share * count).astype(jnp.int32)


def _best_on_masks(
    alive: _Masks, units: _Units, counts: Sequence[jax.Array | int]
) -> list[jax.Array]:
    """Masks of the best units of those alive in each layer, wherever they compete."""
    pairs = zip(alive, units, strict=True)
    alive_units = [Units(u.scores, layers=u.layers, among=mask) for mask, u in pairs]
    return best_units(alive_units, [Keep(count) for count in counts])


def _best_of_tree(
    alive: _Masks, units: _Units, count: jax.Array, floors: jax.Array
) -> list[jax.Array]:
    """Masks of the best of those alive in the whole tree, in each layer no fewer than its floor."""
    scores = [leaf_units.scores for leaf_units in units]
    return best_of_tree(scores, units, count, Layers(units).split(floors), alive)


def _count_per_contest(mask: jax.Array, units: Units) -> jax.Array:
    """How many are marked in each contest; with axes of length one where there are many contests."""
    has_many_contests = units.axis is not None or bool(units.layers)
    return jnp.sum(mask, units.contest_axes, dtype=jnp.int32, keepdims=has_many_contests)


def _count_per_layer(mask: jax.Array, units: Units) -> jax.Array:
    """How many are marked in each layer."""
    axes_within = tuple(axis for axis in range(mask.ndim) if axis not in units.layers)
    return jnp.sum(mask, axes_within, dtype=jnp.int32)


def _layer_rows(array: jax.Array, units: Units) -> list[jax.Array]:
    """What belongs to each layer of a leaf, one array per layer."""
    if not units.layers:
        return [array]
    layers_first = jnp.moveaxis(array, units.layers, range(len(units.layers)))
    return [layers_first[index] for index in np.ndindex(*units.layer_shape)]


def _concatenated(rows_by_leaf: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    return [row for rows in rows_by_leaf for row in rows]


def _grow(staying: _Masks, grow_scores: _Units, counts: Sequence[Any]) -> list[jax.Array]:
    """Masks of the units that stay, and of the best others by `grow_scores`, `counts` of them."""
    pairs = zip(staying, grow_scores, strict=True)
    off_masks = [Units(u.scores, u.axis, layers=u.layers, among=~mask) for mask, u in pairs]
    grown = best_units(off_masks, [Keep(count) for count in counts])
    return [old | new for old, new in zip(staying, grown, strict=True)]


@jax.jit
def _deal_out(places: jax.Array, shares: jax.Array, room: jax.Array) -> jax.Array:
    """Integers close to `places` in the proportion of `shares`, no more than there is room for."""
    shares = jnp.where(jnp.isfinite(shares), jnp.maximum(shares, 1e-20), 1e-20)

    def fill(_: jax.Array, counts: jax.Array) -> jax.Array:
        open_shares = jnp.where(counts < room, shares, 0)
        total_share = jnp.maximum(jnp.sum(open_shares), 1e-20)
        proportions = open_shares / total_share * (1 - 1e-6)  # never one too many
        more = jnp.floor(proportions * (places - jnp.sum(counts))).astype(jnp.int32)
        return jnp.minimum(counts + more, room)

    # Each round fills a leaf to the brim, or deals out all but what flooring leaves.
    counts = jax.lax.fori_loop(0, len(room), fill, jnp.zeros_like(room))
    remaining = places - jnp.sum(counts)  # goes to whoever has room
    room_after = jnp.cumsum(room - counts)
    room_before = room_after - (room - counts)
    return counts + jnp.clip(remaining - room_before, 0, room - counts)


@factory
def cosine(fraction: float, end: int) -> Share:
    r"""Returns a fraction that decays to nothing: $\frac{f}{2}(1 + \cos(\pi t / t_{end}))$ (RigL).

    Args:
      fraction: $f$, at update 0, in [0, 1].
      end: $t_{end}$, the update from which on it is 0.

    Returns:
      A function of the update's index, for `regrow` and `redistribute`.

    Raises:
      ValueError: if the fraction is outside [0, 1], or `end` is below 0.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020).

    >>> [round(float(cosine(0.3, 100)(t)), 3) for t in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """

    _check_fraction("cosine", fraction)
    if end < 0:
        raise ValueError(f"cosine(end={end}): a number of updates, 0 or above, is needed.")

    def decayed(step: Step) -> jax.Array:
        return fraction / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / max(end, 1), 1.0)))

    return Share(decayed)
