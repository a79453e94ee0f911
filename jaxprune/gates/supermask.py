"""Supermasks: networks that learn by choosing among random weights, none of which is trained."""

import math

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.checks import NUMBER, optional
from jaxprune.gates.gate import Gate, Leaves, Rule, check_each, gate_of, over_layers
from jaxprune.gates.scores import best, count, passing
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
    r"""Learns a mask; the weights stay as they were initialised, biases too.

    Without `sparsity` each weight is there with the probability $\sigma(s)$, drawn anew for each batch (Zhou
    et al.); `finalize` keeps those above one half. With it, the weights with the largest $|s|$ are there, the
    same fraction of each layer (edge-popup, Ramanujan et al.). In both, gradients pass straight through to
    $\sigma(s)$ or $|s|$. End the optimizer's chain with `project`, or decay moves the weights.

    Args:
      sparsity: fraction removed, or `None`.
      signed_constant: each weight is its sign times its layer's root mean square.
      dynamic_scaling: layers are multiplied by weights / weights kept.
      prunable: which leaves are masked (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: their shapes tell, and whatever depends on direction refuses those that do not.

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
            return {name: jnp.zeros(w.shape, jnp.float32) for name, w in leaves.items()}
        kernels, keys = kernel_axes.by_path(axes, leaves), jax.random.split(key, len(leaves))
        scores = {}
        for (name, w), k in zip(leaves.items(), keys, strict=True):
            limit = 1 / math.sqrt(_fan_in(name, w.shape, kernels[name]))
            scores[name] = jax.random.uniform(k, w.shape, jnp.float32, -limit, limit)
        return scores

    def worth(gates: Leaves) -> Leaves:
        return jax.tree.map(jax.nn.sigmoid if sparsity is None else jnp.abs, gates)

    def likely(gates: Leaves) -> Leaves:
        if sparsity is None:
            return {name: s > 0 for name, s in gates.items()}
        return best(worth(gates), sparsity, axes)

    def constants(leaves: Leaves) -> Leaves:
        if not signed_constant:
            return leaves
        along = over_layers(leaves, axes)
        squares = {n: jnp.mean(jnp.square(w), along[n], keepdims=True) for n, w in leaves.items()}
        return {n: jnp.sign(w) * jnp.sqrt(squares[n]) for n, w in leaves.items()}

    def scaled(masks: Leaves) -> dict[str, jax.Array | float]:
        if not dynamic_scaling:
            return dict.fromkeys(masks, 1.0)
        along, scales = over_layers(masks, axes), {}
        for name, mask in masks.items():
            kept = mask.sum(along[name], dtype=jnp.float32, keepdims=True)
            scales[name] = math.prod(mask.shape[i] for i in along[name]) / jnp.maximum(kept, 1)
        return scales

    def sample(leaves: Leaves, gates: Leaves, key: jax.Array | None, step: Step | None) -> Leaves:
        values, weights = worth(gates), constants(leaves)
        if sparsity is not None:
            masks = likely(gates)
        elif key is None:
            raise ValueError("supermask: sample(theta, key) draws masks and needs a key.")
        else:
            keys = dict(zip(leaves, jax.random.split(key, len(leaves)), strict=True))
            masks = {n: jax.random.bernoulli(keys[n], values[n]) for n in leaves}
        scale = scaled(masks)
        return {n: passing(weights[n], masks[n], values[n]) * scale[n] for n in leaves}

    def final(leaves: Leaves, gates: Leaves, step: Step | None) -> tuple[Leaves, Leaves]:
        masks, weights = likely(gates), constants(leaves)
        scale = scaled(masks)
        return {n: weights[n] * scale[n] for n in leaves}, masks

    def alive(leaves: Leaves, gates: Leaves) -> jax.Array:
        if sparsity is None:
            return sum((p.sum() for p in worth(gates).values()), jnp.zeros(()))
        return count(likely(gates))

    return gate_of(
        Rule(init, sample, final, alive, lambda *_: 0.0, frozen=True), prunable, axes=axes
    )


def _fan_in(name: str, shape: tuple[int, ...], own: Axes | None) -> int:
    """Weights that an output sums over: its inputs, at each place of a window."""
    fault = kernel_axes.direction_fault("supermask(sparsity=)", shape, own)
    if fault:
        raise ValueError(fault.format(leaf=repr(name)) + ".")
    kernel = kernel_axes.told(shape, own)
    apart = (*kernel.out_axis, *kernel.batch_axis)
    return math.prod(n for i, n in enumerate(shape) if i not in apart)
