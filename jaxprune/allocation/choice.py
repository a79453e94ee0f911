"""The best units of a whole tree, where each layer keeps as many of its own as its floor says."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxprune import selection
from jaxprune.types import Keep, Units

__all__ = ["best_of_tree", "keep_chosen"]


def keep_chosen(units: Units, chosen: jax.Array) -> Keep:
    """What is kept of a leaf in which these units have been chosen.

    Where each layer is one contest, the choice itself; where it has many, its count divided by their number,
    rounded.
    """
    within = tuple(axis for axis in range(chosen.ndim) if axis not in units.layers)
    count = jnp.sum(chosen, within, jnp.int32)
    if units.axis is None:
        return Keep(count, chosen)
    return Keep((count + units.contests // 2) // units.contests)


def best_of_tree(
    scores: Sequence[jax.Array],
    units: Sequence[Units],
    count: jax.Array | int,
    floors: Sequence[jax.Array],
    among: Sequence[jax.Array | None] | None = None,
) -> list[jax.Array]:
    """Marks the best units of all leaves together, among them the best of each layer up to its floor.

    Args:
      scores: of each leaf, as they compare between leaves.
      units: of each leaf; they say which axes index layers.
      count: how many to mark in all; the floors, if they are more together.
      floors: of each leaf, how many to mark of each layer at least.
      among: of each leaf, which units may be marked; `None`: all.

    >>> scores = [jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0, 4.0])]
    >>> leaves = [Units(x) for x in scores]
    >>> [m.tolist() for m in best_of_tree(scores, leaves, 2, [jnp.int32(1), jnp.int32(1)])]
    [[False, True], [False, True, False]]
    """
    allowed = list(among or [None] * len(scores))
    protected = _best_of_layers(scores, units, floors, allowed)
    others = [~p if a is None else a & ~p for p, a in zip(protected, allowed, strict=True)]
    taken = sum(jnp.sum(p, dtype=jnp.int32) for p in protected)
    more = selection.top(scores, jnp.maximum(count - taken, 0), others)
    return [p | m for p, m in zip(protected, more, strict=True)]


def _best_of_layers(
    scores: Sequence[jax.Array],
    units: Sequence[Units],
    counts: Sequence[jax.Array],
    among: Sequence[jax.Array | None],
) -> list[jax.Array]:
    """The best of each layer, whatever contests it is divided into."""
    stacked = [i for i, unit in enumerate(units) if unit.layers]
    alone = [i for i, unit in enumerate(units) if not unit.layers]
    best = selection.top_each(
        [scores[i] for i in alone], [counts[i] for i in alone], [among[i] for i in alone]
    )
    masks = dict(zip(alone, best, strict=True))
    for i in stacked:
        within = [axis for axis in range(scores[i].ndim) if axis not in units[i].layers]
        masks[i] = selection.top_along(scores[i], units[i].beside(counts[i]), within, among[i])
    return [masks[i] for i in range(len(units))]
