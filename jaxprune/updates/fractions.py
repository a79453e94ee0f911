"""The share of kept units that an update drops and regrows: a number, or a function of the update's index."""

import jax
import jax.numpy as jnp

from jaxprune.parts import factory
from jaxprune.types import Fraction, Share, Step

__all__ = ["check_fraction", "cosine", "share_of"]


def check_fraction(name: str, fraction: Fraction) -> None:
    """Refuses a number outside [0, 1]; a function is taken as it is.

    Args:
      name: of the update, to blame.
      fraction: share of the places.

    Raises:
      ValueError: which fraction, and what is needed.
    """
    if not callable(fraction) and not 0 <= fraction <= 1:
        raise ValueError(
            f"{name}(fraction={fraction}): a share of the places, in [0, 1], is needed."
        )


def share_of(share: jax.Array | float, count: jax.Array | int) -> jax.Array:
    """Returns a share of a count, rounded to int32."""
    return jnp.round(share * count).astype(jnp.int32)


@factory
def cosine(fraction: float, end: int) -> Share:
    r"""Returns a fraction that decays to nothing: $\frac{f}{2}(1 + \cos(\pi t / t_{end}))$ (RigL).

    Args:
      fraction: $f$, at update 0, in [0, 1].
      end: $t_{end}$, the update from which on the fraction is 0.

    Returns:
      A function of the update's index, for `regrow` and `redistribute`.

    Raises:
      ValueError: if the fraction is outside [0, 1], or `end` is below 0.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020).

    >>> [round(float(cosine(0.3, 100)(t)), 3) for t in (0, 50, 100)]
    [0.3, 0.15, 0.0]
    """

    check_fraction("cosine", fraction)
    if end < 0:
        raise ValueError(f"cosine(end={end}): a number of updates, 0 or above, is needed.")

    def decayed(step: Step) -> jax.Array:
        progress = jnp.minimum(step / end, 1.0) if end else 1.0
        return fraction / 2 * (1 + jnp.cos(jnp.pi * progress))

    return Share(decayed)
