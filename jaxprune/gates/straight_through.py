"""Masks of the highest scores, and gradients that pass straight through them to the scores."""

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes, updates
from jaxprune.allocation import survivors
from jaxprune.gates.gate import Leaves
from jaxprune.kernel_axes import AxesTree
from jaxprune.types import Keep, Sparsity, Units

__all__ = ["best_masks", "count_kept", "mask_straight_through"]


def mask_straight_through(weights: jax.Array, mask: jax.Array, scores: jax.Array) -> jax.Array:
    r"""Returns $w \odot m$; backward the scores get the gradient of the mask, $\partial L / \partial m$.

    >>> mask = jnp.array([True, False])
    >>> weights = jnp.array([2.0, 3.0])
    >>> jax.grad(lambda s: mask_straight_through(weights, mask, s).sum())(jnp.zeros(2))
    Array([2., 3.], dtype=float32)
    """
    zero_with_slope = scores - jax.lax.stop_gradient(scores)  # exactly zero
    mask_with_slope = mask.astype(scores.dtype) + zero_with_slope
    return weights * mask_with_slope.astype(weights.dtype)


def best_masks(scores: Leaves, sparsity: Sparsity, axes: AxesTree | None = None) -> Leaves:
    """Returns masks of the highest scores: the same fraction of each layer is removed, but one weight stays.

    >>> from jaxprune.types import Axes
    >>> two_layers = {"w": jnp.array([[1.0, 2.0], [8.0, 9.0]])}
    >>> best_masks(two_layers, 0.5, {"w": Axes((), 1, batch_axis=0)})["w"].tolist()
    [[False, True], [False, True]]
    """
    kernels = kernel_axes.by_path(axes, scores)
    units = [
        Units(jax.lax.stop_gradient(leaf_scores), layers=kernel_axes.layer_axes(kernels[path]))
        for path, leaf_scores in scores.items()
    ]
    counts = [jnp.maximum(survivors(leaf_units.members, sparsity), 1) for leaf_units in units]
    masks = updates.best_units(units, [Keep(count) for count in counts])
    return dict(zip(scores, masks, strict=True))


def count_kept(masks: Leaves) -> jax.Array:
    """Returns how many weights masks keep, float32."""
    return sum((mask.sum(dtype=jnp.float32) for mask in masks.values()), jnp.zeros(()))
