"""Criteria that read nothing but the weights."""

import math

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.precision import at_least_float32
from jaxprune.types import Axes, Params, Scores


def magnitude(params: Params, **_) -> Scores:
    r"""Scores a weight by its size, $|w|$.

    References:
      Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks"
      (2015).

    >>> magnitude({"w": jnp.array([-2.0, 1.0])})
    {'w': Array([2., 1.], dtype=float32)}
    """
    return jax.tree.map(jnp.abs, params)


def l2(params: Params, **_) -> Scores:
    r"""Scores a weight by its square: what a pattern adds up to the squared $\ell_2$ norm of a unit.

    Of single weights the order is that of `magnitude`, whose sum over a unit is its $\ell_1$ norm.

    >>> l2({"w": jnp.array([-2.0, 1.0])})
    {'w': Array([4., 1.], dtype=float32)}
    """
    return jax.tree.map(jnp.square, params)


def normalized_magnitude(
    params: Params, *, axes: kernel_axes.AxesTree | None = None, **_
) -> Scores:
    r"""Scores a weight by its size beside its leaf: $|w_i| / \sqrt{\sum_j w_j^2}$.

    For weights of different leaves that share one budget. `allocation.global_budget(normalize="l2")` does
    the same to any criterion, after the pattern. Layers that are stacked in one leaf have a norm each.

    Args:
      params: tree of arrays.
      axes: tree of `jaxprune.Axes` beside `params`, which says what layers are; `None`: there are none.

    References:
      Molchanov, Tyree, Karras, Aila & Kautz, "Pruning Convolutional Neural Networks for Resource Efficient
      Inference" (2017), for criteria of feature maps.

    >>> normalized_magnitude({"a": jnp.array([-3.0, 4.0]), "b": jnp.array([0.06, 0.08])})
    {'a': Array([0.6, 0.8], dtype=float32), 'b': Array([0.6, 0.8], dtype=float32)}
    """

    def score(w: jax.Array, own: Axes | None) -> jax.Array:
        size = jnp.abs(w).astype(at_least_float32(w.dtype))
        layers = () if own is None else own.batch_axis
        rest = tuple(a for a in range(w.ndim) if a not in layers)
        tiny = jnp.finfo(size.dtype).tiny
        largest = jnp.max(size, rest, keepdims=True, initial=tiny)  # so that no square overflows
        squares = jnp.sum((size / largest) ** 2, rest, keepdims=True)
        return size / largest / jnp.sqrt(jnp.maximum(squares, 1.0))

    said = jax.tree.map(lambda _: None, params) if axes is None else axes
    return jax.tree.map(score, params, said)


def fpgm(params: Params, *, axes: kernel_axes.AxesTree | None = None, **_) -> Scores:
    r"""Scores an output unit by its distances to the others of its leaf: $\sum_j \|w_i - w_j\|_2$.

    The units nearest to the geometric median of all are those that others can stand in for. The score is
    spread evenly over the unit's weights; prune with `patterns.channel()`, whose sum it is. Units lie along
    the axes of outputs; layers that are stacked in one leaf have units of their own.

    Args:
      params: tree of arrays.
      axes: tree of `jaxprune.Axes` beside `params`; where it is `None`, the shape of a leaf tells. What is no
        kernel there, and not told by its shape, has no scores.

    References:
      He, Liu, Wang, Hu & Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
      Acceleration" (2019).

    >>> fpgm({"w": jnp.array([[0.0, 1.0, 5.0]])})
    {'w': Array([[6., 5., 9.]], dtype=float32)}
    """

    nothing = axes is None or not any(isinstance(own, Axes) for own in jax.tree.leaves(axes))
    said = jax.tree.map(lambda _: None, params) if nothing else axes
    # What is in no product of a program that is known is no kernel.
    is_kernel = lambda w, own: (
        nothing or own is not None or kernel_axes.by_position(w.shape).in_axis is not None
    )
    wanted = jax.tree.map(lambda w, own: True if is_kernel(w, own) else None, params, said)
    known = kernel_axes.require_axes(said, params, wanted, "fpgm")
    return jax.tree.map(lambda w, own: None if own is None else _distances(w, own), params, known)


def _distances(w: jax.Array, axes: Axes) -> jax.Array:
    """Of each unit to the others of its layer, evenly over its weights."""
    wide = w.astype(at_least_float32(w.dtype))
    if w.ndim < 2:
        return jnp.zeros_like(wide)
    outputs = axes.out_axis or ()
    inputs = [a for a in range(w.ndim) if a not in (*axes.batch_axis, *outputs)]
    order = (*axes.batch_axis, *outputs, *inputs)
    moved = wide.transpose(order)
    kept = moved.shape[: len(order) - len(inputs)]
    count = math.prod(w.shape[a] for a in axes.batch_axis)
    size = math.prod(w.shape[a] for a in inputs)
    units = moved.reshape(count, -1, size)

    def apart(units: jax.Array) -> jax.Array:
        return jax.lax.map(lambda one: jnp.sum(jnp.linalg.norm(units - one[None], axis=1)), units)

    scores = jax.vmap(apart)(units).reshape(*kept, *[1] * len(inputs)) / size
    inverse = [order.index(a) for a in range(w.ndim)]
    return jnp.broadcast_to(scores, moved.shape).transpose(inverse)
