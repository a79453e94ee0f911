"""Supermasks: networks that learn by choosing among random weights, none of which is trained."""

import math

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.arrays.precision import widen
from jaxprune.checks import NUMBER, optional
from jaxprune.gates.arguments import check_each
from jaxprune.gates.gate import Gate, Leaves, Rule, axes_within_layers, gate_of
from jaxprune.gates.straight_through import best_masks, count_kept, mask_straight_through
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.types import Axes, Step

__all__ = ["supermask"]


def supermask(
    *,
    sparsity: float | None = None,
    signed_constant: bool = False,
    dynamic_scaling: bool = False,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
) -> Gate:
    r"""Learns a mask for weights that stay as they were initialised, biases too.

    Without `sparsity` each weight is used with the probability $\sigma(s)$, drawn anew for each batch (Zhou
    et al.); `finalize` keeps those above one half. With `sparsity` the weights with the largest $|s|$ are
    used, the same fraction in each layer, but at least one (edge-popup, Ramanujan et al.). In both cases
    gradients pass straight through to $\sigma(s)$ or $|s|$. End the optimizer's chain with `gate.project()`;
    otherwise weight decay changes the weights.

    Args:
      sparsity: fraction removed, or `None`: the number of removed weights is learned.
      signed_constant: whether each weight is its sign times its layer's root mean square.
      dynamic_scaling: whether layers are multiplied by the number of weights over that of weights kept.
      prunable: which leaves are masked (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: leaves with two axes are taken for `[inputs, outputs]`, with four and a small window for `[h,
        w, inputs, outputs]`; others are refused if inputs and outputs matter.

    Returns:
      A gate.

    Raises:
      ValueError: if `sparsity` is not in [0, 1).

    References: Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the
    Supermask" (2019); Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?" (2020).
    Departure: Zhou et al. test with drawn masks; `finalize` takes the more probable value.

    >>> gate = supermask(sparsity=0.5)
    >>> theta = gate.init({"w": jnp.array([[3.0, -1.0]])}, jax.random.key(0))
    >>> gate.sample(theta._replace(gates={"w": jnp.array([[0.1, -0.2]])}))
    {'w': Array([[ 0., -1.]], dtype=float32)}
    """
    check_each("supermask", optional(NUMBER), sparsity=sparsity)
    if sparsity is not None and not 0 <= sparsity < 1:
        raise ValueError(f"supermask(sparsity={sparsity}): a fraction from 0 to below 1 is needed.")

    def init(leaves: Leaves, key: jax.Array) -> Leaves:
        if sparsity is None:
            return {path: jnp.zeros(leaf.shape, jnp.float32) for path, leaf in leaves.items()}
        kernels = kernel_axes.by_path(axes, leaves)
        keys = jax.random.split(key, len(leaves))
        scores = {}
        for (path, leaf), leaf_key in zip(leaves.items(), keys, strict=True):
            score_limit = 1 / math.sqrt(_fan_in(path, leaf.shape, kernels[path]))
            scores[path] = jax.random.uniform(
                leaf_key, leaf.shape, jnp.float32, -score_limit, score_limit
            )
        return scores

    def mask_values(gates: Leaves) -> Leaves:
        """Returns the probabilities of the mask, or the magnitudes that are ranked."""
        return jax.tree.map(jax.nn.sigmoid if sparsity is None else jnp.abs, gates)

    def likely_masks(gates: Leaves) -> Leaves:
        if sparsity is None:
            return {path: scores > 0 for path, scores in gates.items()}
        return best_masks(mask_values(gates), sparsity, axes)

    def fixed_weights(leaves: Leaves) -> Leaves:
        if not signed_constant:
            return leaves
        layer_axes = axes_within_layers(leaves, axes)
        mean_squares = {
            path: jnp.mean(jnp.square(widen(leaf)), layer_axes[path], keepdims=True)
            for path, leaf in leaves.items()
        }
        return {
            path: jnp.sign(leaf) * jnp.sqrt(mean_squares[path]) for path, leaf in leaves.items()
        }

    def layer_scales(masks: Leaves) -> dict[str, jax.Array | float]:
        if not dynamic_scaling:
            return dict.fromkeys(masks, 1.0)
        layer_axes = axes_within_layers(masks, axes)
        scales = {}
        for path, mask in masks.items():
            kept_counts = mask.sum(layer_axes[path], dtype=jnp.float32, keepdims=True)
            weight_count = math.prod(mask.shape[axis] for axis in layer_axes[path])
            scales[path] = weight_count / jnp.maximum(kept_counts, 1)
        return scales

    def sample(leaves: Leaves, gates: Leaves, key: jax.Array | None, step: Step | None) -> Leaves:
        gate_values = mask_values(gates)
        weights = fixed_weights(leaves)
        if sparsity is not None:
            masks = likely_masks(gates)
        elif key is None:
            raise ValueError("supermask: sample(theta, key) draws masks and needs a key.")
        else:
            keys = dict(zip(leaves, jax.random.split(key, len(leaves)), strict=True))
            masks = {path: jax.random.bernoulli(keys[path], gate_values[path]) for path in leaves}
        scales = layer_scales(masks)
        return {
            path: mask_straight_through(weights[path], masks[path], gate_values[path])
            * scales[path]
            for path in leaves
        }

    def final(leaves: Leaves, gates: Leaves, step: Step | None) -> tuple[Leaves, Leaves]:
        masks = likely_masks(gates)
        weights = fixed_weights(leaves)
        scales = layer_scales(masks)
        return {path: weights[path] * scales[path] for path in leaves}, masks

    def alive(leaves: Leaves, gates: Leaves) -> jax.Array:
        if sparsity is None:
            probabilities = mask_values(gates).values()
            return sum((probability.sum() for probability in probabilities), jnp.zeros(()))
        return count_kept(likely_masks(gates))

    return gate_of(
        Rule(init, sample, final, alive, lambda *_: 0.0, frozen=True), prunable, axes=axes
    )


def _fan_in(path: str, shape: tuple[int, ...], axes: Axes | None) -> int:
    """Returns the number of weights that an output sums over: its inputs, at each place of a window."""
    fault = kernel_axes.direction_fault("supermask(sparsity=)", shape, axes)
    if fault:
        raise ValueError(fault.format(leaf=repr(path)) + ".")
    leaf_axes = kernel_axes.resolve_axes(shape, axes)
    other_axes = (*leaf_axes.out_axis, *leaf_axes.batch_axis)
    return math.prod(size for axis, size in enumerate(shape) if axis not in other_axes)
