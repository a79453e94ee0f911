"""A kernel as the rows of linear maps, one per layer, beside the Gram matrices of what enters it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.types import Axes

__all__ = ["Rows", "damped", "into_rows"]


class Rows(NamedTuple):
    """A kernel as linear maps.

    Attributes:
      kernel: `[layers, outputs, inputs]`; places in the window of a convolution are inputs.
      gram: `[layers, inputs, inputs]`.
      back: `[layers, outputs, inputs]` -> an array of the kernel's shape.
    """

    kernel: jax.Array
    gram: jax.Array
    back: Callable[[jax.Array], jax.Array]


def into_rows(kernel: jax.Array, axes: Axes, gram: jax.Array) -> Rows:
    """Returns a kernel as the rows of one linear map per layer.

    Args:
      kernel: of any shape.
      axes: its inputs, outputs and layers, counted from 0.
      gram: `[*layers, inputs, inputs]`, in the order of the kernel's own axes.

    >>> rows = into_rows(jnp.ones((2, 3)), Axes(0, 1), jnp.eye(2))
    >>> rows.kernel.shape, rows.back(rows.kernel).shape
    ((1, 3, 2), (2, 3))
    """
    outputs = axes.out_axis or ()
    inputs = [a for a in range(kernel.ndim) if a not in (*axes.batch_axis, *outputs)]
    layers = [kernel.shape[a] for a in axes.batch_axis]
    width = math.prod(kernel.shape[a] for a in inputs)
    if gram.shape != (*layers, width, width):
        raise ValueError(
            f"layerwise: a kernel of the shape {kernel.shape} with {axes} has {width} inputs"
            f"{f' and layers {tuple(layers)}' if layers else ''}, but its Gram matrix is {gram.shape}; give "
            "what jaxprune.signals.grams and jaxprune.axes return for these parameters."
        )
    order = (*axes.batch_axis, *outputs, *inputs)
    moved = kernel.transpose(order)
    inverse = [order.index(a) for a in range(kernel.ndim)]
    count = math.prod(layers)
    return Rows(
        moved.reshape(count, -1, width),
        gram.reshape(count, width, width),
        lambda rows: rows.reshape(moved.shape).transpose(inverse),
    )


def damped(gram: jax.Array, damp: float) -> jax.Array:
    """The Gram matrix with a share of its mean diagonal added; inputs that are always zero stay apart."""
    diagonal = jnp.diagonal(gram)
    mean = jnp.mean(diagonal)
    extra = jnp.where(diagonal > 0, damp * mean, jnp.maximum(mean, 1))
    return gram + jnp.diag(extra.astype(gram.dtype))
