"""Units that must be ranked and have the score NaN, which is no order: counted, named and refused."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxprune.calls import text
from jaxprune.selection.mask_counts import count_marked
from jaxprune.types import Criterion, Masks, Units

__all__ = ["MissingScores", "resolve_unknown", "with_counts", "without_score"]


class MissingScores(NamedTuple):
    """Units of one leaf, or one group of coupled units, that must be ranked and have the score NaN.

    Attributes:
      leaf: path of the leaf, or name of the group.
      criterion: that gave the scores.
      count: int32 scalar, how many units have no score.
      ranked: int32 scalar, how many must be ranked.
    """

    leaf: str
    criterion: str
    count: jax.Array
    ranked: jax.Array


def without_score(
    criterion: Criterion, names: Sequence[str], units: Sequence[Units]
) -> list[MissingScores]:
    """Counts the units of each leaf that must be ranked and have the score NaN."""
    criterion_name = text(criterion)

    def count(leaf: str, unit: Units) -> MissingScores:
        is_nan = jnp.isnan(unit.scores)
        ranked = jnp.ones_like(is_nan) if unit.among is None else unit.among
        return MissingScores(leaf, criterion_name, *_count_two_masks(is_nan & ranked, ranked))

    return [count(leaf, unit) for leaf, unit in zip(names, units, strict=True)]


@jax.jit
def _count_two_masks(missing: jax.Array, ranked: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns how many units each of two masks marks, the first of them within the second."""
    mesh = jax.typeof(missing).sharding.mesh
    if mesh.auto_axes or mesh.explicit_axes or not missing.ndim:
        return jnp.sum(missing, dtype=jnp.int32), jnp.sum(ranked, dtype=jnp.int32)
    missing_count, ranked_count = count_marked([missing, ranked], tuple(range(missing.ndim)))
    # The first reads the second, so that both are wanted: XLA:CPU counts one alone slowly.
    missing_count = jnp.where(ranked_count > 0, missing_count, 0)
    return missing_count, ranked_count


def with_counts(
    labels: Sequence[MissingScores], counts: Sequence[tuple[jax.Array, jax.Array]]
) -> list[MissingScores]:
    """Joins the names of what has no score with their counts, which a program returned."""
    pairs = zip(labels, counts, strict=True)
    return [label._replace(count=count, ranked=ranked) for label, (count, ranked) in pairs]


def resolve_unknown(new: Masks, old: Masks, unknown: Sequence[MissingScores]) -> Masks:
    """Returns the new masks if all scores are known; otherwise refuses, or if traced keeps the old masks."""
    missing_count = sum(label.count for label in unknown)
    if not isinstance(missing_count, Tracer):
        _refuse_unknown(unknown)
        return new
    return jax.tree.map(
        lambda new_mask, old_mask: jnp.where(missing_count == 0, new_mask, old_mask), new, old
    )


def _refuse_unknown(unknown: Sequence[MissingScores]) -> None:
    """Raises `ValueError` if a unit that must be ranked has no score: leaf, criterion and count."""
    missing_scores = [label for label in unknown if int(label.count)]
    if not missing_scores:
        return
    first_missing = missing_scores[0]
    other_leaves = [
        repr(label.leaf) for label in missing_scores[1:] if label.leaf != first_missing.leaf
    ]
    addition = f" (as have some of {', '.join(other_leaves[:5])})" if other_leaves else ""
    raise ValueError(
        f"{first_missing.criterion}: {int(first_missing.count)} of the {int(first_missing.ranked)} units of "
        f"{first_missing.leaf!r} that must be ranked have the score NaN{addition}, and NaN is no order; "
        "look for NaN in the weights and in the signals, or exclude the leaf with prunable=."
    )
