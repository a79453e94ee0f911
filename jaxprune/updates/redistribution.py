"""The update that regrows units in any layer of the tree, and the shares that layers receive."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks
from jaxprune.allocation.choice import best_of_tree
from jaxprune.allocation.counts import Layers, check_floor
from jaxprune.parts import factory
from jaxprune.selection.counts_by_leaf import count_by_leaf
from jaxprune.selection.mask_counts import mean_marked
from jaxprune.types import Criterion, Fraction, Step, Units, Update
from jaxprune.updates.fractions import check_fraction, share_of
from jaxprune.updates.selecting import (
    KeepPerLeaf,
    MaskPerLeaf,
    UnitsPerLeaf,
    best_on_masks,
    grow,
)

__all__ = ["by_signal", "by_survivors", "redistribute"]

_SHARES = checks.Kind(
    "a function of survivors and scores",
    lambda value: checks.is_function(value) and checks.takes(value, 2),
    lambda _: "such as updates.by_survivors",
)


@factory
def redistribute(
    grow_criterion: Criterion,
    *,
    fraction: Fraction = 0.3,
    shares: Callable[[Sequence[jax.Array], Sequence[jax.Array]], Sequence[jax.Array]],
    pooled: bool = False,
    at_least: int = 1,
) -> Update:
    """Returns the update that drops a fraction of the kept units and regrows as many in all layers.

    The allocation sets the number of kept units of the whole tree; their distribution over layers changes.
    Units that do not fit in a layer go to the others. Units are counted, not weights: with channels of
    different sizes the number of units stays the same, the number of weights does not.

    Args:
      grow_criterion: criterion that ranks the units off the mask for growth.
      fraction: share of the kept units that is dropped and regrown, in [0, 1]; a number, or a function of the
        update's index, such as `cosine`.
      shares: (survivors, scores by `grow_criterion`), lists of arrays with one element per layer -> the share
        of the regrown units of each layer, nonnegative and in any unit: `by_survivors`, `by_signal`.
      pooled: whether to drop the worst units of the whole tree, instead of a fraction in each layer.
      at_least: fewest kept units of a layer (all its units, if it has fewer). The best units of the layer
        keep these places; places lost by dropping are the first to be regrown. 0 allows empty layers.

    Returns:
      An update for `jaxprune.Method`, for patterns whose leaves are one contest each.

    Raises:
      ValueError: if the fraction is a number outside [0, 1], or `at_least` is below 0.

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

    checks.check("redistribute", shares=(shares, _SHARES))
    check_fraction("redistribute", fraction)
    check_floor("redistribute", at_least)

    def select(
        alive: MaskPerLeaf,
        units: UnitsPerLeaf,
        grow_scores: UnitsPerLeaf,
        keep: KeepPerLeaf,
        step: Step,
    ) -> list[jax.Array]:
        share = fraction(step) if callable(fraction) else fraction
        layers = Layers(units)
        total = jnp.sum(layers.joined([jnp.asarray(leaf_keep.count) for leaf_keep in keep]))
        floors = layers.floors(at_least)
        if pooled:
            staying = _best_of_tree(alive, units, total - share_of(share, total), floors)
        else:
            within_budget = _best_of_tree(alive, units, total, floors)
            counts = layers.marked(within_budget)
            kept_counts = layers.split(counts - share_of(share, counts))
            staying = best_on_masks(within_budget, units, kept_counts)
        staying_counts = layers.marked(staying)
        sizes = layers.repeated([leaf_units.members for leaf_units in units])
        staying_rows = [
            _layer_rows(mask, leaf_units) for mask, leaf_units in zip(staying, units, strict=True)
        ]
        score_rows = [_layer_rows(leaf_units.scores, leaf_units) for leaf_units in grow_scores]
        wanted = shares(_concatenated(staying_rows), _concatenated(score_rows))
        wanted_shares = jnp.stack(list(wanted)).astype(jnp.float32)
        # Layers below their floor are filled up to it, before the rest is dealt out.
        floor_places = jnp.maximum(floors - staying_counts, 0)
        more_places = jnp.maximum(total - jnp.sum(staying_counts + floor_places), 0)
        room = jnp.asarray(sizes - staying_counts) - floor_places
        grown_counts = floor_places + _deal_out(more_places, wanted_shares, room)
        return grow(staying, grow_scores, layers.split(grown_counts))

    return Update(select, grow_criterion, whole_leaves=True)


def by_survivors(staying: Sequence[jax.Array], grow_scores: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns the share of regrown units of each layer: the number of its survivors (DSR).

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
    return list(count_by_leaf(staying).astype(jnp.float32))


def by_signal(staying: Sequence[jax.Array], grow_scores: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns the share of regrown units of each layer: the mean score of its survivors (SNFS, by momentum).

    Args:
      staying: bool arrays, one per layer: the units that have not been dropped.
      grow_scores: scores of the units by `redistribute`'s criterion, one array per layer.

    Returns:
      Scalars, one per layer: the mean absolute score of the survivors.

    References:
      Dettmers & Zettlemoyer, "Sparse Networks from Scratch: Faster Training without Losing Performance"
      (2019).

    >>> [float(s) for s in by_signal([jnp.array([True, False])], [jnp.array([3.0, 5.0])])]
    [3.0]
    """

    pairs = zip(staying, grow_scores, strict=True)
    return [mean_marked(mask, jnp.abs(scores)) for mask, scores in pairs]


def _best_of_tree(
    alive: MaskPerLeaf, units: UnitsPerLeaf, count: jax.Array, floors: jax.Array
) -> list[jax.Array]:
    """Masks of the best of those alive in the whole tree, in each layer no fewer than its floor."""
    scores = [leaf_units.scores for leaf_units in units]
    return best_of_tree(scores, units, count, Layers(units).split(floors), alive)


def _layer_rows(array: jax.Array, leaf_units: Units) -> list[jax.Array]:
    """What belongs to each layer of a leaf, one array per layer."""
    if not leaf_units.layers:
        return [array]
    layers_first = jnp.moveaxis(array, leaf_units.layers, range(len(leaf_units.layers)))
    return [layers_first[index] for index in np.ndindex(*leaf_units.layer_shape)]


def _concatenated(rows_by_leaf: Sequence[Sequence[jax.Array]]) -> list[jax.Array]:
    return [row for rows in rows_by_leaf for row in rows]


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
