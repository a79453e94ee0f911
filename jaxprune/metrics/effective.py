"""Weights that have an effect: those on a path of kept weights from an input to an output."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks, kernel_axes
from jaxprune import masks as masks_lib
from jaxprune.types import Axes, Masks, Params

__all__ = ["effective"]

# Leaves of one axis that multiply, of normalisation and `jaxprune.nn.SReLU`; others are added.
_FACTORS = ("scale", "var", "left_slope", "right_slope")


def effective(apply: Callable[..., Any], params: Params, masks: Masks, *inputs: Any) -> Masks:
    r"""Returns the masks without the weights that lie on no path from an input to an output.

    If a weight leads to a unit without outgoing weights, or comes from a unit without incoming weights, its
    removal changes only constants (biases). Such weights are found as by Vysogorets & Kempe. Each kept weight
    is replaced by a positive number, each bias by 0 and each input by 1. A weight is effective if the
    derivative of the sum of the outputs with respect to this weight is not zero. Weights of a convolution
    that meet only padding are therefore not effective.

    The function must pass positive values on: ReLU and similar functions, pooling, BatchNorm with fixed
    statistics that are part of `params`. Functions that centre or saturate (LayerNorm, softmax and therefore
    attention) have zero derivatives at equal values. They are refused, because even the dense network would
    have no effective weight. A maximum of equal values passes the derivative to one of them only.

    Args:
      apply: (params, *inputs) -> outputs.
      params: tree of arrays, of which shapes and dtypes are used. Leaves without a mask count as kept; those
        of one axis as constants, unless they are called `scale`, `var`, `left_slope` or `right_slope`.
      masks: bool arrays, `None` at leaves without a mask; concrete, not traced by JAX.
      *inputs: trees of arrays or `jax.ShapeDtypeStruct`s; the values do not matter.

    Returns:
      Masks like `masks`, false at weights without effect.

    Raises:
      ValueError: if weights have no effect even in the network with all weights kept.

    References:
      Vysogorets & Kempe, "Connectivity Matters: Neural Network Pruning Through the Lens of Effective
      Sparsity" (2023).

    >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((2, 2)), "out": jnp.ones((2, 1))}
    >>> masks = {"in": jnp.array([[True, True], [True, False]]), "out": jnp.array([[True], [False]])}
    >>> effective(apply, params, masks, jnp.ones((1, 2)))["in"]  # the second unit goes nowhere
    Array([[ True, False],
           [ True, False]], dtype=bool)
    """
    checks.check("effective", apply=(apply, checks.FUNCTION), params=(params, checks.TREE))
    masks_lib.validate(params, masks)
    dense = jax.tree.map(jnp.ones_like, masks_lib.unpack(masks))
    dense_on_paths = _on_paths(apply, params, dense, inputs)
    kernels = kernel_axes.of_leaves(kernel_axes.axes(apply, params, *inputs), params)
    idle_count = sum(
        0 if mask is None else _idle_count(mask, leaf_axes)
        for mask, leaf_axes in zip(masks_lib.beside(params, dense_on_paths), kernels, strict=True)
    )
    if idle_count:
        raise ValueError(
            f"effective: {idle_count} weights of the dense network have no effect on positive inputs; the "
            "function centres or saturates (LayerNorm, softmax), or looks inputs up: paths cannot be told."
        )
    return _on_paths(apply, params, masks_lib.unpack(masks), inputs)


def _idle_count(mask: jax.Array, axes: Axes | None) -> int:
    """Returns how many weights of a dense leaf have no effect, but for taps that meet padding alone.

    A tap is a place in a convolution's window: where a map is smaller than the window, all weights of some
    taps are multiplied with nothing but padding.
    """
    if axes is not None and axes.in_axis is not None and mask.any():
        other_axes = (*axes.in_axis, *(axes.out_axis or ()), *axes.batch_axis)
        if len(other_axes) < mask.ndim:
            mask = mask | ~mask.any(other_axes, keepdims=True)
    return int((~mask).sum())


def _on_paths(
    apply: Callable[..., Any], params: Params, masks: Masks, inputs: tuple[Any, ...]
) -> Masks:
    """Returns the masks without the weights in which the sum of the outputs has no slope."""
    leaves, treedef = jax.tree.flatten(params)
    leaf_masks = masks_lib.beside(params, masks)
    ones = jax.tree.map(lambda array: jnp.ones(jnp.shape(array), array.dtype), inputs)
    kernels = kernel_axes.of_leaves(kernel_axes.axes(apply, params, *inputs), params)
    is_float = [jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves]

    def output_sum(float_leaves: list[jax.Array]) -> jax.Array:
        remaining = iter(float_leaves)
        new_leaves = [
            next(remaining).astype(leaf.dtype) if floating else leaf
            for leaf, floating in zip(leaves, is_float, strict=True)
        ]
        outputs = jax.tree.leaves(apply(treedef.unflatten(new_leaves), *ones))
        return sum((output.astype(jnp.float32).sum() for output in outputs), jnp.zeros(()))

    rows = zip(masks_lib.paths(params), leaves, leaf_masks, kernels, is_float, strict=True)
    positive_leaves = [
        _positive_weights(path, leaf, mask, leaf_axes)
        for path, leaf, mask, leaf_axes, floating in rows
        if floating
    ]
    slopes = iter(jax.grad(output_sum)(positive_leaves))
    slope_of_leaves = [next(slopes) if floating else None for floating in is_float]
    return treedef.unflatten(
        None if mask is None else mask & (slope != 0)
        for mask, slope in zip(leaf_masks, slope_of_leaves, strict=True)
    )


def _positive_weights(path: str, leaf: jax.Array, mask: Any, axes: Axes | None) -> jax.Array:
    """Returns positive values for kept weights, 1 for factors and 0 for biases."""
    if mask is None and jnp.ndim(leaf) < 2:
        is_factor = path.rsplit("/", 1)[-1] in _FACTORS
        return jnp.full(jnp.shape(leaf), float(is_factor), jnp.float32)
    kept = jnp.ones(leaf.shape) if mask is None else mask.astype(jnp.float32)
    inputs_kept = kept.sum(_summed_axes(leaf.shape, axes), keepdims=True)
    return kept / jnp.maximum(inputs_kept, 1)  # values stay about 1, however deep the network is


def _summed_axes(shape: tuple[int, ...], axes: Axes | None) -> tuple[int, ...]:
    """Returns the axes that an output sums over; all but the last where that is not known."""
    if axes is None or axes.out_axis is None:
        return tuple(range(len(shape) - 1))
    other_axes = (*axes.out_axis, *axes.batch_axis)
    return tuple(axis for axis in range(len(shape)) if axis not in other_axes)
