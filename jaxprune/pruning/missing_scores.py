"""Units that must be ranked and have the score NaN, which is no order: counted, named and refused."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxprune.calls import is_traced, text
from jaxprune.selection.counts_by_leaf import count_masks_by_leaf
from jaxprune.types import Criterion, Masks, Units

__all__ = ["MissingScores", "missing_count", "resolve_unknown", "without_score"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("counts", "ranked"),
    meta_fields=("names", "criterion"),
)
@dataclasses.dataclass(frozen=True)
class MissingScores:
    """Units of each leaf, or each group of coupled units, that must be ranked and have the score NaN.

    Attributes:
      names: paths of the leaves, or names of the groups.
      criterion: that gave the scores.
      counts: int32 of each, how many units have no score.
      ranked: int32 of each, how many must be ranked.
    """

    names: tuple[str, ...]
    criterion: str
    counts: jax.Array
    ranked: jax.Array


def without_score(
    criterion: Criterion, names: Sequence[str], units: Sequence[Units]
) -> MissingScores:
    """Counts the units of each leaf that must be ranked and have the score NaN."""
    masks = []
    for leaf_units in units:
        is_nan = jnp.isnan(leaf_units.scores)
        ranked = jnp.ones_like(is_nan) if leaf_units.among is None else leaf_units.among
        masks.append((is_nan & ranked, ranked))
    counts = count_masks_by_leaf(tuple(masks))
    return MissingScores(tuple(names), text(criterion), counts[:, 0], counts[:, 1])


def missing_count(unknown: Sequence[MissingScores]) -> jax.Array | int:
    """Returns how many units have no score and must have one."""
    return sum(jnp.sum(missing.counts) for missing in unknown)


def resolve_unknown(new: Masks, old: Masks, unknown: Sequence[MissingScores]) -> Masks:
    """Returns the new masks if all scores are known; otherwise refuses, or if traced keeps the old masks."""
    count = missing_count(unknown)
    if not is_traced(count):
        _refuse_unknown(unknown)
        return new
    return jax.tree.map(
        lambda new_mask, old_mask: jnp.where(count == 0, new_mask, old_mask), new, old
    )


def _refuse_unknown(unknown: Sequence[MissingScores]) -> None:
    """Raises `ValueError` if a unit that must be ranked has no score: leaf, criterion and count."""
    missing_scores = [
        (label.criterion, name, int(count), int(ranked))
        for label in unknown
        for name, count, ranked in zip(label.names, label.counts, label.ranked, strict=True)
        if int(count)
    ]
    if not missing_scores:
        return
    criterion_name, first_name, count, ranked = missing_scores[0]
    other_leaves = [repr(name) for _, name, _, _ in missing_scores[1:] if name != first_name]
    addition = f" (as have some of {', '.join(other_leaves[:5])})" if other_leaves else ""
    raise ValueError(
        f"{criterion_name}: {count} of the {ranked} units of {first_name!r} that must be ranked have the "
        f"score NaN{addition}, and NaN is no order; look for NaN in the weights and in the signals, or "
        "exclude the leaf with prunable=."
    )
