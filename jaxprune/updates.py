"""Updates: how old masks become new ones.

Each is `(alive, units, rivals, keep, step) -> alive`, over lists with one entry per prunable leaf, so that
one search serves all leaves. `next_masks` has already ranked dead units below every living one, unless
the update `revives` them.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxprune import selection
from jaxprune.types import Criterion, Keep, Step, Units, Update

__all__ = ["cosine", "prune", "regrow", "reselect"]


def best(units: Sequence[Units], keep: Sequence[Keep]) -> list[jax.Array]:
    """Returns the `count` best units of each contest; equal scores are taken in index order."""
    chosen = [k.chosen for k in keep]
    for i, (unit, k) in enumerate(zip(units, keep, strict=True)):
        if chosen[i] is None and unit.axis is not None:
            chosen[i] = selection.top_along(unit.scores, k.count, unit.axis)
    left = [i for i, c in enumerate(chosen) if c is None]
    found = selection.top_each([units[i].scores for i in left], [keep[i].count for i in left])
    for i, mask in zip(left, found, strict=True):
        chosen[i] = mask
    return chosen  # type: ignore[return-value]


def prune() -> Update:
    """Keeps the best of those alive; what is dead stays dead."""

    def select(alive, units, rivals, keep, step):
        return [a & b for a, b in zip(alive, best(units, keep), strict=True)]

    return Update(select)


def reselect() -> Update:
    """Keeps the best of all: a dead weight whose score has grown comes back."""
    return Update(lambda alive, units, rivals, keep, step: best(units, keep), revives=True)


def regrow(
    challengers: Criterion,
    *,
    fraction: float | Callable[[Step], jax.Array] = 0.3,
    skip_gradient: bool = False,
) -> Update:
    """Drops a fraction of those alive and gives their places to the best challengers.

    Of `keep` places, the `keep - round(fraction * keep)` best units stay; every other unit, the ones
    just dropped included, competes for the rest by the challengers' score. The count is exact.

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

    if not callable(fraction) and not 0 <= fraction <= 1:
        raise ValueError(
            f"regrow(fraction={fraction}): a share of the places, in [0, 1], is needed."
        )

    def select(alive, units, rivals, keep, step):
        share = fraction(step) if callable(fraction) else fraction
        dealt = [jnp.round(share * k.count).astype(jnp.int32) for k in keep]
        stay = [Keep(k.count - d) for k, d in zip(keep, dealt, strict=True)]
        stays = [a & b for a, b in zip(alive, best(units, stay), strict=True)]
        outside, places = [], []
        for stay, rival, k, d in zip(stays, rivals, keep, dealt, strict=True):
            # A challenger without a score ranks ahead of those who stay, and behind all others.
            scores = jnp.where(jnp.isnan(rival.scores), -jnp.inf, rival.scores)
            outside.append(Units(jnp.where(stay, jnp.nan, scores), rival.axis))
            # A leaf of one contest fills up to `keep`, however many were alive; others by what each lost.
            alone = rival.axis is None
            places.append(Keep(k.count - jnp.sum(stay, dtype=jnp.int32) if alone else d))
        return [a | b for a, b in zip(stays, best(outside, places), strict=True)]

    return Update(select, challengers, skip_gradient=skip_gradient)


def cosine(fraction: float, end: int) -> Callable[[Step], jax.Array]:
    r"""A fraction that decays to nothing: $\frac{f}{2}(1 + \cos(\pi t / t_{end}))$ (RigL).

    >>> [round(float(cosine(0.3, 100)(t)), 3) for t in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """

    def at(step: Step) -> jax.Array:
        return fraction / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / max(end, 1), 1.0)))

    return at
