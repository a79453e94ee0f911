"""Criteria that read activations: the inputs of a weight, or the outputs of its unit (`jaxprune.signals`).

Scores of units are spread evenly over their weights, so that a pattern's sum over a unit is the unit's score.
"""

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.arrays.precision import widen
from jaxprune.criteria.known import score_known
from jaxprune.types import Axes, Params, Scores

__all__ = ["apoz", "bn_scale", "entropy", "hrank", "ria", "wanda"]


def wanda(params: Params, *, input_moments: Params, **_) -> Scores:
    r"""Scores a weight by its size times the norm of its input, $|w_{ij}| \|x_i\|_2$.

    With `patterns.groups()` the weights of each output compete among themselves, as in the paper.

    Args:
      params: tree of arrays.
      input_moments: mean squares, from `jaxprune.signals.input_moments`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Sun, Liu, Bair & Kolter, "A Simple and Effective Pruning Approach for Large Language Models" (2023).

    >>> wanda({"w": jnp.array([[1.0], [-3.0]])}, input_moments={"w": jnp.array([[16.0], [1.0]])})
    {'w': Array([[4.],
           [3.]], dtype=float32)}
    """
    return score_known(lambda w, x: jnp.abs(widen(w)) * jnp.sqrt(widen(x)), params, input_moments)


def ria(
    params: Params,
    *,
    input_moments: Params,
    axes: kernel_axes.AxesTree | None = None,
    power: float = 0.5,
    **_,
) -> Scores:
    r"""Scores a weight by its share of its input's and of its output's weights, times the input's norm.

    $(|w_{ij}| / \sum_i |w_{ij}| + |w_{ij}| / \sum_j |w_{ij}|)\, \|x_i\|_2^{a}$, which keeps weights in
    channels that magnitude alone would remove altogether. Positions in the window of a convolution count as
    inputs; each layer of a stack is a kernel of its own.

    Args:
      params: tree of arrays.
      input_moments: mean squares, from `jaxprune.signals.input_moments`.
      axes: tree of `jaxprune.Axes` beside `params`; where it is `None`, the shape of a leaf tells.
      power: $a$.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Zhang, Bai, Lin, Zhao, Hou & Cannistraci, "Plug-and-Play: An Efficient Post-training Pruning Method for
      Large Language Models" (2024).

    >>> ria({"w": jnp.array([[1.0, 3.0]])}, input_moments={"w": jnp.array([[1.0]])})
    {'w': Array([[1.25, 1.75]], dtype=float32)}
    """

    known_axes = kernel_axes.require_axes(axes, params, input_moments, "ria")

    def score(
        weights: jax.Array, moments: jax.Array | None, leaf_axes: Axes | None
    ) -> jax.Array | None:
        if moments is None or leaf_axes is None:
            return None
        sizes = jnp.abs(widen(weights))
        smallest = jnp.finfo(sizes.dtype).tiny

        def total_size(axis: tuple[int, ...]) -> jax.Array:
            return jnp.maximum(sizes.sum(axis, keepdims=True), smallest)

        out_axes = leaf_axes.out_axis or ()
        in_axes = tuple(
            axis for axis in range(weights.ndim) if axis not in (*out_axes, *leaf_axes.batch_axis)
        )
        relative_size = sizes / total_size(in_axes) + sizes / total_size(out_axes)
        return relative_size * jnp.sqrt(widen(moments)) ** power

    return jax.tree.map(score, params, input_moments, known_axes)


def apoz(params: Params, *, unit_zeros: Params, **_) -> Scores:
    """Scores a unit by how often it is not zero: one minus the average percentage of zeros.

    Args:
      params: tree of arrays.
      unit_zeros: share of zeros per unit, `jaxprune.signals.outputs(...).unit_zeros`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Hu, Peng, Tai & Tang, "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
      Architectures" (2016).

    >>> apoz({"w": jnp.ones((2, 2))}, unit_zeros={"w": jnp.array([[1.0, 0.5]])})
    {'w': Array([[0.  , 0.25],
           [0.  , 0.25]], dtype=float32)}
    """
    return score_known(lambda w, z: _spread_evenly(w, 1 - widen(z)), params, unit_zeros)


def bn_scale(params: Params, *, batchnorm_scales: Params, **_) -> Scores:
    r"""Scores a unit by the size of the scale that a BatchNorm multiplies it by, $|\gamma|$.

    Args:
      params: tree of arrays.
      batchnorm_scales: per unit, from `jaxprune.signals.batchnorm_scales`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017), where an L1
      penalty on the scales (`jaxprune.penalties.l1`) makes them differ.

    >>> bn_scale({"w": jnp.ones((2, 2))}, batchnorm_scales={"w": jnp.array([[3.0, 1.0]])})
    {'w': Array([[1.5, 0.5],
           [1.5, 0.5]], dtype=float32)}
    """
    return score_known(_spread_evenly, params, batchnorm_scales)


def entropy(params: Params, *, unit_entropies: Params, **_) -> Scores:
    """Scores a unit by the entropy of its activation over the examples: units that vary carry information.

    Args:
      params: tree of arrays.
      unit_entropies: per unit, `jaxprune.signals.outputs(...).unit_entropies`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Luo & Wu, "An Entropy-based Pruning Method for CNN Compression" (2017).

    >>> entropy({"w": jnp.ones((2, 1))}, unit_entropies={"w": jnp.array([[3.0]])})
    {'w': Array([[1.5],
           [1.5]], dtype=float32)}
    """
    return score_known(_spread_evenly, params, unit_entropies)


def hrank(params: Params, *, unit_ranks: Params, **_) -> Scores:
    """Scores a filter by the rank of its feature maps, in the mean over examples.

    Args:
      params: tree of arrays.
      unit_ranks: per filter, `jaxprune.signals.outputs(...).unit_ranks`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Lin et al., "HRank: Filter Pruning using High-Rank Feature Map" (2020).

    >>> hrank({"w": jnp.ones((1, 1, 2, 1))}, unit_ranks={"w": 6 * jnp.ones((1, 1, 1, 1))})["w"].sum()
    Array(6., dtype=float32)
    """
    return score_known(_spread_evenly, params, unit_ranks)


def _spread_evenly(weights: jax.Array, unit_scores: jax.Array) -> jax.Array:
    """The score of each unit, evenly over its weights."""
    share = unit_scores.size / weights.size
    return jnp.broadcast_to(widen(unit_scores) * share, weights.shape)
