"""The best units of a whole tree, where each layer keeps as many of its own as its floor says."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxprune import selection
from jaxprune.types import Units

__all__ = ["best_of_tree"]


def best_of_tree(
    scores: Sequence[jax.Array],
    units: Sequence[Units],
    count: jax.Array | int,
    floors: Sequence[jax.Array],
) -> list[jax.Array]:
    """Marks the best units of all leaves together, among them the best of each layer up to its floor.

    Args:
      scores: of each leaf, as they compare between leaves; NaN ranks below everything.
      units: of each leaf; they say which axes index layers.
      count: how many to mark in all; the floors, if they are more together.
      floors: of each leaf, how many to mark of each layer at least.

    >>> scores = [jnp.array([1.0, 2.0]), jnp.array([3.0, 5.0, 4.0])]
    >>> leaves = [Units(x) for x in scores]
    >>> [m.tolist() for m in best_of_tree(scores, leaves, 2, [jnp.int32(1), jnp.int32(1)])]
    [[False, True], [False, True, False]]
    """
    protected = _best_of_layers(scores, units, floors)
    others = [jnp.where(p, jnp.nan, s) for p, s in zip(protected, scores, strict=True)]
    taken = sum(jnp.sum(p, dtype=jnp.int32) for p in protected)
    more = selection.top(others, jnp.maximum(count - taken, 0))
    return [p | m for p, m in zip(protected, more, strict=True)]


def _best_of_layers(
    scores: Sequence[jax.Array], units: Sequence[Units], counts: Sequence[jax.Array]
) -> list[jax.Array]:
    """The best of each layer, whatever contests it is divided into."""
    stacked = [i for i, unit in enumerate(units) if unit.layers]
    alone = [i for i, unit in enumerate(units) if not unit.layers]
    masks = dict(
        zip(
            alone,
            selection.top_each([scores[i] for i in alone], [counts[i] for i in alone]),
            strict=True,
        )
    )
    for i in stacked:
        within = [axis for axis in range(scores[i].ndim) if axis not in units[i].layers]
        masks[i] = selection.top_along(scores[i], units[i].beside(counts[i]), within)
    return [masks[i] for i in range(len(units))]
