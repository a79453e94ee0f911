"""Criteria that read nothing but the weights."""

import math

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.arrays.precision import widen
from jaxprune.types import Axes, Params, Scores


def magnitude(params: Params, **_) -> Scores:
    """Scores a weight by its size, $|w|$.

    Args:
      params: tree of arrays.

    Returns:
      A tree like `params` of float arrays, higher is better.

    References:
      Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks"
      (2015).

    >>> magnitude({"w": jnp.array([-2.0, 1.0])})
    {'w': Array([2., 1.], dtype=float32)}
    """
    return jax.tree.map(jnp.abs, params)


def l2(params: Params, **_) -> Scores:
    r"""Scores a weight by its square, which a pattern sums to the squared $\ell_2$ norm of a unit.

    Single weights have the same order as by `magnitude`, whose sum over a unit is its $\ell_1$ norm.

    Args:
      params: tree of arrays.

    Returns:
      A tree like `params` of float arrays, higher is better.

    >>> l2({"w": jnp.array([-2.0, 1.0])})
    {'w': Array([4., 1.], dtype=float32)}
    """
    return jax.tree.map(lambda w: jnp.square(widen(w)), params)


def normalized_magnitude(
    params: Params, *, axes: kernel_axes.AxesTree | None = None, **_
) -> Scores:
    r"""Scores a weight by its size beside its leaf: $|w_i| / \sqrt{\sum_j w_j^2}$.

    For weights of different leaves that share one budget. `allocation.global_budget(normalize="l2")` does
    the same to any criterion, after the pattern. Layers that are stacked in one leaf have a norm each.

    Args:
      params: tree of arrays.
      axes: tree of `jaxprune.Axes` beside `params`, which says what layers are; `None`: there are none.

    Returns:
      A tree like `params` of float arrays, higher is better.

    References:
      Molchanov, Tyree, Karras, Aila & Kautz, "Pruning Convolutional Neural Networks for Resource Efficient
      Inference" (2017), for criteria of feature maps.

    >>> normalized_magnitude({"a": jnp.array([-3.0, 4.0]), "b": jnp.array([0.06, 0.08])})
    {'a': Array([0.6, 0.8], dtype=float32), 'b': Array([0.6, 0.8], dtype=float32)}
    """

    def score(weights: jax.Array, leaf_axes: Axes | None) -> jax.Array:
        sizes = jnp.abs(widen(weights))
        layer_axes = () if leaf_axes is None else leaf_axes.batch_axis
        other_axes = tuple(axis for axis in range(weights.ndim) if axis not in layer_axes)
        smallest = jnp.finfo(sizes.dtype).tiny
        # Divided by the largest, so that no square overflows; infinite ones come first whatever the norm.
        finite = jnp.where(jnp.isinf(sizes), 0, sizes)
        largest = jnp.max(finite, other_axes, keepdims=True, initial=smallest)
        squares = jnp.sum((finite / largest) ** 2, other_axes, keepdims=True)
        return sizes / largest / jnp.sqrt(jnp.maximum(squares, 1.0))

    return jax.tree.map(score, params, kernel_axes.tree_beside(axes, params))


def fpgm(params: Params, *, axes: kernel_axes.AxesTree | None = None, **_) -> Scores:
    r"""Scores an output unit by its distances to the others of its leaf: $\sum_j \|w_i - w_j\|_2$.

    The units nearest to the geometric median of all can be replaced by others best. The score is spread
    evenly over the unit's weights; prune with `patterns.channel()`, which sums it again. Units lie along the
    axes of outputs; layers that are stacked in one leaf have units of their own.

    Args:
      params: tree of arrays.
      axes: tree of `jaxprune.Axes` beside `params`; where it is `None`, the shape of a leaf tells. What is no
        kernel there, and not told by its shape, has no scores.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      He, Liu, Wang, Hu & Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
      Acceleration" (2019).

    >>> fpgm({"w": jnp.array([[0.0, 1.0, 5.0]])})
    {'w': Array([[6., 5., 9.]], dtype=float32)}
    """

    is_unknown = axes is None or not any(isinstance(leaf, Axes) for leaf in jax.tree.leaves(axes))
    given_axes = kernel_axes.tree_beside(None if is_unknown else axes, params)

    def kernel_mark(weights: jax.Array, leaf_axes: Axes | None) -> bool | None:
        if is_unknown or leaf_axes is not None:
            return True
        # What is in no product of a program that is known is no kernel.
        return True if kernel_axes.by_position(weights.shape).in_axis is not None else None

    kernels = jax.tree.map(kernel_mark, params, given_axes)
    known_axes = kernel_axes.require_axes(given_axes, params, kernels, "fpgm")
    return jax.tree.map(
        lambda w, leaf_axes: None if leaf_axes is None else _unit_distances(w, leaf_axes),
        params,
        known_axes,
    )


def _unit_distances(weights: jax.Array, axes: Axes) -> jax.Array:
    """The summed distances of each unit to the others of its layer, evenly over its weights."""
    wide_weights = widen(weights)
    if weights.ndim < 2:
        return jnp.zeros_like(wide_weights)
    out_axes = axes.out_axis or ()
    in_axes = [axis for axis in range(weights.ndim) if axis not in (*axes.batch_axis, *out_axes)]
    order = (*axes.batch_axis, *out_axes, *in_axes)
    ordered = wide_weights.transpose(order)
    unit_shape = ordered.shape[: len(order) - len(in_axes)]
    layer_count = math.prod(weights.shape[axis] for axis in axes.batch_axis)
    unit_size = math.prod(weights.shape[axis] for axis in in_axes)
    layers = ordered.reshape(layer_count, -1, unit_size)

    def distances_within(units: jax.Array) -> jax.Array:
        return jax.lax.map(lambda one: jnp.sum(jnp.linalg.norm(units - one[None], axis=1)), units)

    unit_scores = jax.vmap(distances_within)(layers)
    scores = unit_scores.reshape(*unit_shape, *[1] * len(in_axes)) / unit_size
    inverse_order = [order.index(axis) for axis in range(weights.ndim)]
    return jnp.broadcast_to(scores, ordered.shape).transpose(inverse_order)
