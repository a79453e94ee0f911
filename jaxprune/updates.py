"""Updates: how old masks become new ones.

Each is `(alive, units, rivals, keep, step) -> alive`, over lists with one entry per prunable leaf, so that
one search serves all leaves. Dead units cannot be kept (`Units.among`), unless the update `revives` them.
"""

from collections.abc import Callable, Sequence

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


def best(units: Sequence[Units], keep: Sequence[Keep]) -> list[jax.Array]:
    """Returns the `count` best units of each contest; equal scores are taken in index order."""
    chosen = [k.chosen for k in keep]
    for i, (unit, k) in enumerate(zip(units, keep, strict=True)):
        if chosen[i] is None and (unit.axis is not None or unit.layers):
            count, axes = _placed(k, unit), unit.contest_axes
            chosen[i] = selection.top_along(unit.scores, count, axes, unit.among)
    left = [i for i, c in enumerate(chosen) if c is None]
    found = selection.top_each(
        [units[i].scores for i in left],
        [keep[i].count for i in left],
        [units[i].among for i in left],
    )
    for i, mask in zip(left, found, strict=True):
        chosen[i] = mask
    return chosen  # type: ignore[return-value]


def _placed(keep: Keep, units: Units) -> jax.Array | int:
    """Survivors in the shape that broadcasts against the units, given per layer, or per contest already."""
    ready = jnp.ndim(keep.count) == units.scores.ndim
    return keep.count if ready else units.beside(keep.count)


@factory
def prune() -> Update:
    """Keeps the best of those alive; what is dead stays dead."""

    def select(alive, units, rivals, keep, step):
        return [a & b for a, b in zip(alive, best(units, keep), strict=True)]

    return Update(select)


@factory
def reselect() -> Update:
    """Keeps the best of all: a dead weight whose score has grown comes back."""
    return Update(lambda alive, units, rivals, keep, step: best(units, keep), revives=True)


@factory
def regrow(
    challengers: Criterion,
    *,
    fraction: Fraction = 0.3,
    skip_gradient: bool = False,
) -> Update:
    """Drops a fraction of those alive and gives their places to the best challengers.

    Of the `n` places of a leaf, the `n - round(fraction * n)` best units keep theirs; every other unit,
    the ones just dropped included, competes for the rest by the challengers' score, within its contest.
    The counts are exact: with N:M patterns, too, each group regrows what it has lost.

    Args:
      challengers: criterion of the units that want to grow: the size of the gradient (RigL) or chance
        (SET).
      fraction: share of the places that is dealt out anew; a number, or a function of the step.
      skip_gradient: leave the weights alone in the update that changes the masks, as the RigL paper
        does. The wrapped optimizer still counts the step, so learning-rate schedules do not slip.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020);
      Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity
      inspired by Network Science" (2018).
    """

    _check_fraction("regrow", fraction)

    def select(alive, units, rivals, keep, step):
        share = fraction(step) if callable(fraction) else fraction
        held = _entitled(alive, units, keep)
        dealt = [_share(share, k.count * u.contests) for k, u in zip(keep, units, strict=True)]
        left = [k.count * u.contests - d for k, u, d in zip(keep, units, dealt, strict=True)]
        stays = _best_of(held, units, left)
        lost = [_placed(k, u) - _count(s, u) for k, s, u in zip(keep, stays, units, strict=True)]
        return _grown(stays, rivals, lost)

    return Update(select, challengers, skip_gradient=skip_gradient)


@factory
def redistribute(
    challengers: Criterion,
    *,
    fraction: Fraction = 0.3,
    shares: Callable[[Sequence[jax.Array], Sequence[jax.Array]], Sequence[jax.Array]],
    pooled: bool = False,
    at_least: int = 1,
) -> Update:
    """Drops a fraction of those alive and deals their places out anew among all leaves.

    The number of places of the whole tree is that of the allocation; how they lie among the leaves
    changes. What a leaf cannot take goes to the others. Places are units: with channels of different
    sizes, their number stays, not that of the weights.

    Args:
      challengers: criterion of the units that want to grow.
      fraction: share of the places that is dealt out anew; a number, or a function of the step.
      shares: (survivors, challengers' scores), lists of arrays with one entry per layer -> what each
        layer is to get of the places, nonnegative and in any unit: `by_survivors`, `by_signal`.
      pooled: drop the worst of the whole tree, instead of a fraction of each leaf.
      at_least: fewest places that a layer has, or all that it can take; the best of its own keep them, and
        where those are dropped they are the first that are dealt out. 0 allows that it is emptied.

    References:
      Mostafa & Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic
      Sparse Reparameterization" (2019); Dettmers & Zettlemoyer, "Sparse Networks from Scratch: Faster
      Training without Losing Performance" (2019).
    """

    _check_fraction("redistribute", fraction)
    check_floor("redistribute", at_least)

    def select(alive, units, rivals, keep, step):
        share = fraction(step) if callable(fraction) else fraction
        layers = Layers(units)
        total = jnp.sum(layers.joined([jnp.asarray(k.count) for k in keep]))
        floors = layers.floors(at_least)
        if pooled:
            stays = _best_of_all(alive, units, total - _share(share, total), floors)
        else:
            held = _best_of_all(alive, units, total, floors)
            counts = [_in_layers(h, u) for h, u in zip(held, units, strict=True)]
            stays = _best_of(held, units, [c - _share(share, c) for c in counts])
        staying = layers.joined([_in_layers(s, u) for s, u in zip(stays, units, strict=True)])
        sizes = layers.repeated([u.members for u in units])
        rows = [_rows(s, u) for s, u in zip(stays, units, strict=True)]
        rival_rows = [_rows(r.scores, r) for r in rivals]
        wanted = shares(_flat(rows), _flat(rival_rows))
        stacked = jnp.stack(list(wanted)).astype(jnp.float32)
        first = jnp.maximum(floors - staying, 0)
        more = jnp.maximum(total - jnp.sum(staying + first), 0)
        places = first + _dealt(more, stacked, jnp.asarray(sizes - staying) - first)
        return _grown(stays, rivals, layers.split(places))

    return Update(select, challengers, whole_leaves=True)


def by_survivors(stays: Sequence[jax.Array], rivals: Sequence[jax.Array]) -> list[jax.Array]:
    """Shares by what has survived: who keeps more grows more (DSR).

    >>> [float(s) for s in by_survivors([jnp.array([True, True]), jnp.array([False, True])], [])]
    [2.0, 1.0]
    """
    return [jnp.sum(s).astype(jnp.float32) for s in stays]


def by_signal(stays: Sequence[jax.Array], rivals: Sequence[jax.Array]) -> list[jax.Array]:
    """Shares by the mean of the challengers' score over the survivors (SNFS, with the momentum).

    >>> [float(s) for s in by_signal([jnp.array([True, False])], [jnp.array([3.0, 5.0])])]
    [3.0]
    """
    mean = lambda s, r: jnp.sum(jnp.where(s, r, 0)) / jnp.maximum(jnp.sum(s), 1)
    return [mean(s, jnp.abs(r)) for s, r in zip(stays, rivals, strict=True)]


@factory
def splice(c: float = 0.0, margin: float = 0.1) -> Update:
    r"""Cuts what is small and brings back what has grown, by two thresholds per leaf.

    With mean $\mu$ and standard deviation $\sigma$ of a leaf's scores and $t = \max(\mu + c\sigma, 0)$,
    a unit goes below $(1 - m)\,t$ and comes back above $(1 + m)\,t$; in between it stays what it is. How
    sparse that is, the weights decide: the budget is not read. A layer of which nothing would be left keeps
    its best units.

    Args:
      c: how far the threshold lies above the mean, in standard deviations.
      margin: $m$, half the width of the band without a change.

    References:
      Guo, Yao & Chen, "Dynamic Network Surgery for Efficient DNNs" (2016), equation 3. Departure: mean
      and deviation are those of the moment, not of the start.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"splice(margin={margin}): a number in [0, 1) is needed.")

    def one(alive, scores):
        finite = jnp.isfinite(scores)
        spread = jnp.std(scores, where=finite)
        threshold = jnp.maximum(jnp.mean(scores, where=finite) + c * spread, 0)
        above = scores > (1 + margin) * threshold
        left = above | (alive & (scores >= (1 - margin) * threshold))
        return left | (~jnp.any(left) & (scores >= jnp.max(scores, initial=-jnp.inf)))

    def select(alive, units, rivals, keep, step):
        pairs = zip(alive, units, strict=True)
        return [each_layer(one, u.layers)(a, u.scores) for a, u in pairs]

    return Update(select, revives=True, whole_leaves=True)


def _check_fraction(name: str, fraction: Fraction) -> None:
    if not callable(fraction) and not 0 <= fraction <= 1:
        raise ValueError(
            f"{name}(fraction={fraction}): a share of the places, in [0, 1], is needed."
        )


def _entitled(alive, units, keep):
    """The living that a budget leaves in each contest."""
    if all(u.axis is None for u in units):
        return alive  # the one contest is decided when some of them are dropped
    return [a & b for a, b in zip(alive, best(units, keep), strict=True)]


def _share(share: jax.Array | float, count: jax.Array | int) -> jax.Array:
    return jnp.round(share * count).astype(jnp.int32)


def _best_of(alive, units, counts):
    """The best of those alive in each layer, wherever they compete."""
    pairs = zip(alive, units, strict=True)
    living = [Units(u.scores, layers=u.layers, among=a) for a, u in pairs]
    return best(living, [Keep(count) for count in counts])


def _best_of_all(alive, units, count, floors):
    """The best of those alive in the whole tree, of each layer at least as many as its floor says."""
    scores = [u.scores for u in units]
    return best_of_tree(scores, units, count, Layers(units).split(floors), alive)


def _count(mask: jax.Array, units: Units) -> jax.Array:
    """How many are marked in each contest; with axes of length one where there are many contests."""
    many = units.axis is not None or bool(units.layers)
    return jnp.sum(mask, units.contest_axes, dtype=jnp.int32, keepdims=many)


def _in_layers(mask: jax.Array, units: Units) -> jax.Array:
    """How many are marked in each layer."""
    within = tuple(i for i in range(mask.ndim) if i not in units.layers)
    return jnp.sum(mask, within, dtype=jnp.int32)


def _rows(x: jax.Array, units: Units) -> list[jax.Array]:
    """What belongs to each layer."""
    if not units.layers:
        return [x]
    moved = jnp.moveaxis(x, units.layers, range(len(units.layers)))
    return [moved[index] for index in np.ndindex(*units.layer_shape)]


def _flat(rows: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    return [row for leaf in rows for row in leaf]


def _grown(stays, rivals, places):
    """Those who stay, and the best challengers for the places."""
    pairs = zip(stays, rivals, strict=True)
    outside = [Units(r.scores, r.axis, layers=r.layers, among=~stay) for stay, r in pairs]
    grown = best(outside, [Keep(count) for count in places])
    return [a | b for a, b in zip(stays, grown, strict=True)]


@jax.jit
def _dealt(places: jax.Array, wanted: jax.Array, room: jax.Array) -> jax.Array:
    """Integers close to `places` in the proportion of `wanted`, no more than there is room for."""
    wanted = jnp.where(jnp.isfinite(wanted), jnp.maximum(wanted, 1e-20), 1e-20)

    def fill(_, counts):
        open_ = jnp.where(counts < room, wanted, 0)
        part = open_ / jnp.maximum(jnp.sum(open_), 1e-20) * (1 - 1e-6)  # never one too many
        more = jnp.floor(part * (places - jnp.sum(counts))).astype(jnp.int32)
        return jnp.minimum(counts + more, room)

    # Each round fills a leaf to the brim, or deals out all but what flooring leaves.
    counts = jax.lax.fori_loop(0, len(room), fill, jnp.zeros_like(room))
    left = places - jnp.sum(counts)  # goes to whoever has room
    after = jnp.cumsum(room - counts)
    before = after - (room - counts)
    return counts + jnp.clip(left - before, 0, room - counts)


@factory
def cosine(fraction: float, end: int) -> Share:
    r"""A fraction that decays to nothing: $\frac{f}{2}(1 + \cos(\pi t / t_{end}))$ (RigL).

    >>> [round(float(cosine(0.3, 100)(t)), 3) for t in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """

    _check_fraction("cosine", fraction)
    if end < 0:
        raise ValueError(f"cosine(end={end}): a number of updates, 0 or above, is needed.")

    def at(step: Step) -> jax.Array:
        return fraction / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / max(end, 1), 1.0)))

    return Share(at)
