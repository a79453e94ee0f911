"""Weights that do something: those on a path of weights kept, from an input to an output."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks, kernel_axes
from jaxprune import masks as masks_lib
from jaxprune.types import Axes, Masks, Params

__all__ = ["effective"]

_FACTORS = ("scale", "var")  # leaves of one axis that multiply; others are added


def effective(apply: Callable[..., Any], params: Params, masks: Masks, *inputs: Any) -> Masks:
    r"""Returns the masks without the weights that no path from an input to an output goes through.

    A weight that feeds a unit without outputs, or comes from one without inputs, can go without changing
    more than constants; what is left is what a network without the dead units still has. Counted as by
    Vysogorets & Kempe: each kept weight becomes a positive number, biases become 0 and inputs 1, and a weight
    is effective if the sum of the outputs has a slope in it.

    The function must let positive values through: ReLU and its like, pooling, BatchNorm with fixed
    statistics, given among `params`. What centres or saturates (LayerNorm, softmax, and so attention) has no
    slope at equal values; such functions are refused, as the dense network already seems to do nothing. In a
    maximum of equals one takes it all.

    Args:
      apply: (params, *inputs) -> outputs.
      params: tree of arrays, for shapes and dtypes. Leaves without a mask count as kept; those of one axis
        as constants, unless they are called `scale` or `var`.
      masks: bool arrays, `None` at leaves without one; not traced.
      *inputs: trees of arrays or `jax.ShapeDtypeStruct`s; the values do not matter.

    Raises:
      ValueError: if weights have no effect even where all are kept.

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
    idle = [w for w in jax.tree.leaves(_on_paths(apply, params, dense, inputs)) if not w.all()]
    if idle:
        count = sum(int((~w).sum()) for w in idle)
        raise ValueError(
            f"effective: {count} weights of the dense network have no effect on positive inputs; the "
            "function centres or saturates (LayerNorm, softmax), or looks inputs up: paths cannot be told."
        )
    return _on_paths(apply, params, masks_lib.unpack(masks), inputs)


def _on_paths(
    apply: Callable[..., Any], params: Params, masks: Masks, inputs: tuple[Any, ...]
) -> Masks:
    leaves, treedef = jax.tree.flatten(params)
    found = masks_lib.beside(params, masks)
    ones = jax.tree.map(lambda x: jnp.ones(jnp.shape(x), x.dtype), inputs)
    kernels = kernel_axes.of_leaves(kernel_axes.axes(apply, params, *inputs), params)
    floats = [jnp.issubdtype(jnp.result_type(w), jnp.floating) for w in leaves]

    def conduit(name: str, w: jax.Array, mask: Any, kernel: Axes | None) -> jax.Array:
        if mask is None and jnp.ndim(w) < 2:
            factor = name.rsplit("/", 1)[-1] in _FACTORS
            return jnp.full(jnp.shape(w), float(factor), jnp.float32)
        kept = jnp.ones(w.shape) if mask is None else mask.astype(jnp.float32)
        into = kept.sum(_summed_over(w.shape, kernel), keepdims=True)
        return kept / jnp.maximum(into, 1)  # values stay about 1, however deep the network is

    def total(weights: list[jax.Array]) -> jax.Array:
        new = iter(weights)
        whole = [next(new).astype(w.dtype) if f else w for w, f in zip(leaves, floats, strict=True)]
        outputs = jax.tree.leaves(apply(treedef.unflatten(whole), *ones))
        return sum((y.astype(jnp.float32).sum() for y in outputs), jnp.zeros(()))

    named = zip(masks_lib.paths(params), leaves, found, kernels, floats, strict=True)
    slopes = iter(jax.grad(total)([conduit(n, w, m, kernel) for n, w, m, kernel, f in named if f]))
    slopes = [next(slopes) if f else None for f in floats]
    kept = [None if m is None else m & (s != 0) for m, s in zip(found, slopes, strict=True)]
    return treedef.unflatten(kept)


def _summed_over(shape: tuple[int, ...], kernel: Axes | None) -> tuple[int, ...]:
    """The axes of the weights that an output sums over; all but the last where nobody can tell."""
    if kernel is None or kernel.out_axis is None:
        return tuple(range(len(shape) - 1))
    apart = (*kernel.out_axis, *kernel.batch_axis)
    return tuple(axis for axis in range(len(shape)) if axis not in apart)
