"""What gates with scores share: masks forward, gradients straight through to the scores."""

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes, updates
from jaxprune.allocation import survivors
from jaxprune.gates.gate import Leaves
from jaxprune.kernel_axes import AxesTree
from jaxprune.types import Keep, Sparsity, Units

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


def best(scores: Leaves, sparsity: Sparsity, axes: AxesTree | None = None) -> Leaves:
    """Masks of the highest scores: the same fraction of each layer goes.

    >>> from jaxprune.types import Axes
    >>> two_layers = {"w": jnp.array([[1.0, 2.0], [8.0, 9.0]])}
    >>> best(two_layers, 0.5, {"w": Axes((), 1, batch_axis=0)})["w"].tolist()
    [[False, True], [False, True]]
    """
    kernels = kernel_axes.by_path(axes, scores)
    units = [
        Units(jax.lax.stop_gradient(s), layers=kernel_axes.layer_axes(kernels[name]))
        for name, s in scores.items()
    ]
    found = updates.best_units(units, [Keep(survivors(unit.members, sparsity)) for unit in units])
    return dict(zip(scores, found, strict=True))


def count(masks: Leaves) -> jax.Array:
    """How many weights masks keep, float32."""
    return sum((m.sum(dtype=jnp.float32) for m in masks.values()), jnp.zeros(()))
