"""What gates with scores share: masks forward, gradients straight through to the scores."""

import jax
import jax.numpy as jnp

from jaxprune import selection
from jaxprune.allocation import survivors
from jaxprune.gates.gate import Leaves
from jaxprune.types import Sparsity

__all__ = ["best", "count", "passing"]


def passing(weights: jax.Array, mask: jax.Array, scores: jax.Array) -> jax.Array:
    r"""$w \odot m$ forward; backward the scores get what the mask would: $\partial L / \partial m$.

    >>> mask = jnp.array([True, False])
    >>> jax.grad(lambda s: passing(jnp.array([2.0, 3.0]), mask, s).sum())(jnp.zeros(2))
    Array([2., 3.], dtype=float32)
    """
    slope = scores - jax.lax.stop_gradient(scores)  # exactly zero
    hard = mask.astype(scores.dtype) + slope
    return weights * hard.astype(weights.dtype)


def best(scores: Leaves, sparsity: Sparsity) -> Leaves:
    """Masks of the highest scores: the same fraction of each leaf goes."""
    ks = [survivors(s.size, sparsity) for s in scores.values()]
    found = selection.top_each([jax.lax.stop_gradient(s) for s in scores.values()], ks)
    return dict(zip(scores, found, strict=True))


def count(masks: Leaves) -> jax.Array:
    """How many weights masks keep, float32."""
    return sum((m.sum(dtype=jnp.float32) for m in masks.values()), jnp.zeros(()))
