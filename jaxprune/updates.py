"""Updates: how an old mask becomes a new one.

Each is `(alive, units, challengers, keep, step) -> alive` on the units of one leaf. `next_masks` has
already ranked dead units below every living one, unless the update `revives` them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxprune import selection
from jaxprune.types import Criterion, Keep, Step, Units, Update

__all__ = ["cosine", "prune", "regrow", "reselect"]


def best(units: Units, keep: Keep) -> jax.Array:
    """Returns the `keep.count` best units of each contest; equal scores are taken in index order."""
    if keep.chosen is not None:
        return keep.chosen
    if units.axis is None:
        return selection.top([units.scores], keep.count)[0]
    return selection.top_along(units.scores, keep.count, units.axis)


def prune() -> Update:
    """Keeps the best of those alive; what is dead stays dead."""
    return Update(lambda alive, units, challengers, keep, step: best(units, keep) & alive)


def reselect() -> Update:
    """Keeps the best of all: a dead weight whose score has grown comes back."""
    return Update(lambda alive, units, challengers, keep, step: best(units, keep), revives=True)


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

    def select(
        alive: jax.Array, units: Units, rivals: Units, keep: Keep, step: Step
    ) -> jax.Array:
        share = fraction(step) if callable(fraction) else fraction
        dealt = jnp.round(share * keep.count).astype(jnp.int32)
        stay = best(units, Keep(keep.count - dealt)) & alive
        outside = Units(jnp.where(stay, jnp.nan, _finite(rivals.scores)), rivals.axis)
        # Each contest fills up to `keep`; all lose the same number, unless fewer than that were alive.
        if units.axis is None:
            return stay | best(outside, Keep(keep.count - jnp.sum(stay, dtype=jnp.int32)))
        return stay | (best(outside, Keep(dealt)) & ~stay)

    return Update(select, challengers, skip_gradient=skip_gradient)


def cosine(fraction: float, end: int) -> Callable[[Step], jax.Array]:
    r"""A fraction that decays to nothing: $\frac{f}{2}(1 + \cos(\pi t / t_{end}))$ (RigL).

    >>> [round(float(cosine(0.3, 100)(t)), 3) for t in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """

    def at(step: Step) -> jax.Array:
        return fraction / 2 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / max(end, 1), 1.0)))

    return at


def _finite(scores: jax.Array) -> jax.Array:
    """A challenger without a score ranks last among the challengers, ahead of who already stays."""
    return jnp.where(jnp.isnan(scores), -jnp.inf, scores)
