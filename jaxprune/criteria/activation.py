"""Criteria that read activations: what enters a weight, and what its unit gives (`jaxprune.signals`).

Scores of units are spread evenly over their weights, so that a pattern's sum over a unit is the unit's score.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.types import Axes, Params, Scores

__all__ = ["apoz", "bn_scale", "entropy", "hrank", "ria", "wanda"]


def wanda(params: Params, *, inputs: Params, **_) -> Scores:
    r"""Scores a weight by its size times the norm of what it multiplies, $|w_{ij}| \|x_i\|_2$.

    With `patterns.groups()` the weights of each output compete among themselves, as in the paper.

    Args:
      params: tree of arrays.
      inputs: mean squares, from `jaxprune.signals.input_moments`.

    References:
      Sun, Liu, Bair & Kolter, "A Simple and Effective Pruning Approach for Large Language Models" (2023).

    >>> wanda({"w": jnp.array([[1.0], [-3.0]])}, inputs={"w": jnp.array([[16.0], [1.0]])})
    {'w': Array([[4.],
           [3.]], dtype=float32)}
    """
    return _each(lambda w, x: jnp.abs(w) * jnp.sqrt(x), params, inputs)


def ria(
    params: Params,
    *,
    inputs: Params,
    axes: kernel_axes.AxesTree | None = None,
    power: float = 0.5,
    **_,
) -> Scores:
    r"""Scores a weight by its share of its input's and of its output's weights, times the input's norm.

    $(|w_{ij}| / \sum_i |w_{ij}| + |w_{ij}| / \sum_j |w_{ij}|)\, \|x_i\|_2^{a}$, which spares
    channels that magnitudes alone would empty. Places in the window of a convolution are inputs; each layer
    of a stack is a kernel of its own.

    Args:
      params: tree of arrays.
      inputs: mean squares, from `jaxprune.signals.input_moments`.
      axes: tree of `jaxprune.Axes` beside `params`; where it is `None`, the shape of a leaf tells.
      power: $a$.

    References:
      Zhang, Bai, Lin, Zhao, Hou & Cannistraci, "Plug-and-Play: An Efficient Post-training Pruning Method for
      Large Language Models" (2024).

    >>> ria({"w": jnp.array([[1.0, 3.0]])}, inputs={"w": jnp.array([[1.0]])})
    {'w': Array([[1.25, 1.75]], dtype=float32)}
    """

    known = kernel_axes.require_axes(axes, params, inputs, "ria")

    def score(w: jax.Array, x: jax.Array | None, own: Axes | None) -> jax.Array | None:
        if x is None or own is None:
            return None
        size = jnp.abs(w)
        whole = lambda axis: jnp.maximum(size.sum(axis, keepdims=True), jnp.finfo(w.dtype).tiny)
        outputs = own.out_axis or ()
        into = tuple(a for a in range(w.ndim) if a not in (*outputs, *own.batch_axis))
        return (size / whole(into) + size / whole(outputs)) * jnp.sqrt(x) ** power

    return jax.tree.map(score, params, inputs, known)


def apoz(params: Params, *, zeros: Params, **_) -> Scores:
    r"""Scores a unit by how often it is not zero: one minus the average percentage of zeros.

    Args:
      params: tree of arrays.
      zeros: share of zeros per unit, `jaxprune.signals.outputs(...).zeros`.

    References:
      Hu, Peng, Tai & Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
      Architectures" (2016).

    >>> apoz({"w": jnp.ones((2, 2))}, zeros={"w": jnp.array([[1.0, 0.5]])})
    {'w': Array([[0.  , 0.25],
           [0.  , 0.25]], dtype=float32)}
    """
    return _each(lambda w, z: _spread(w, 1 - z), params, zeros)


def bn_scale(params: Params, *, scales: Params, **_) -> Scores:
    r"""Scores a unit by the size of the scale that a BatchNorm multiplies it by, $|\gamma|$.

    Args:
      params: tree of arrays.
      scales: per unit, from `jaxprune.signals.scales`.

    References:
      Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017), where an L1
      penalty on the scales (`jaxprune.penalties.l1`) makes them differ.

    >>> bn_scale({"w": jnp.ones((2, 2))}, scales={"w": jnp.array([[3.0, 1.0]])})
    {'w': Array([[1.5, 0.5],
           [1.5, 0.5]], dtype=float32)}
    """
    return _each(_spread, params, scales)


def entropy(params: Params, *, entropy: Params, **_) -> Scores:
    r"""Scores a unit by the entropy of its activation over the examples: what varies says something.

    Args:
      params: tree of arrays.
      entropy: per unit, `jaxprune.signals.outputs(...).entropy`.

    References:
      Luo & Wu, "An Entropy-based Pruning Method for CNN Compression" (2017).

    >>> entropy({"w": jnp.ones((2, 1))}, entropy={"w": jnp.array([[3.0]])})
    {'w': Array([[1.5],
           [1.5]], dtype=float32)}
    """
    return _each(_spread, params, entropy)


def hrank(params: Params, *, rank: Params, **_) -> Scores:
    r"""Scores a filter by the rank of its feature maps, in the mean over examples.

    Args:
      params: tree of arrays.
      rank: per filter, `jaxprune.signals.outputs(...).rank`.

    References:
      Lin et al., "HRank: Filter Pruning using High-Rank Feature Map" (2020).

    >>> hrank({"w": jnp.ones((1, 1, 2, 1))}, rank={"w": 6 * jnp.ones((1, 1, 1, 1))})["w"].sum()
    Array(6., dtype=float32)
    """
    return _each(_spread, params, rank)


def _spread(w: jax.Array, unit: jax.Array) -> jax.Array:
    """The score of each unit, evenly over its weights."""
    return jnp.broadcast_to(unit * (unit.size / w.size), w.shape)


def _each(score: Callable[[Any, Any], jax.Array], params: Params, signal: Params) -> Scores:
    """Scores of the leaves that the signal knows; `None` for the others, which cannot be pruned by it."""
    return jax.tree.map(lambda w, x: None if x is None else score(w, x), params, signal)
