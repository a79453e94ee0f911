"""Trainings that diverge: every loss that is read is checked, and no state is saved that cannot go on."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from experiments.config import UserError

__all__ = ["DivergedError", "has_nan", "is_finite", "require_finite"]

REMEDY = "Lower the learning rate or clip the gradients."


class DivergedError(UserError):
    """A loss, or the weights, of a training are no longer finite."""


def require_finite(loss: float, what: str) -> float:
    """Returns a loss, if it is finite.

    Args:
      loss: any loss that is read.
      what: which loss it is, for the error: "seed 0: the test loss after update 100".

    Raises:
      DivergedError: it is not finite.
    """
    if not math.isfinite(loss):
        raise DivergedError(f"{what} is {loss}, no longer finite. {REMEDY}")
    return loss


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


@jax.jit
def _any_nan(leaves: list[jax.Array]) -> jax.Array:
    return jnp.any(jnp.stack([jnp.any(jnp.isnan(leaf)) for leaf in leaves]))


def is_finite(tree: Any) -> bool:
    """Boolean: all numbers of a tree are finite; integers and other exact leaves always are.

    >>> is_finite({"a": jnp.zeros(2), "n": jnp.int32(3)}), is_finite([jnp.array([1.0, jnp.nan])])
    (True, False)
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return not leaves or bool(_all_finite(leaves))


def has_nan(tree: Any) -> bool:
    """Boolean: a number of a tree is NaN; infinity may be intended, as in masks of attention.

    >>> has_nan({"mask": jnp.array([0.0, -jnp.inf])}), has_nan([jnp.array([1.0, jnp.nan])])
    (False, True)
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return bool(leaves) and bool(_any_nan(leaves))
