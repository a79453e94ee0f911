"""A kernel as the rows of linear maps, one per layer, beside the Gram matrices of what enters it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.types import Axes

__all__ = ["Rows", "conjugate_gradients", "damped", "into_rows"]


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


def conjugate_gradients(
    kernel: jax.Array,
    mask: jax.Array,
    gram: jax.Array,
    *,
    iterations: int = 64,
    tolerance: float = 1e-4,
) -> jax.Array:
    r"""Fits the weights that are kept to what the layer gave: least squares, for all outputs at once.

    Of each output, the kept weights $v$ solve $G_{KK} v = (G w)_K$. Conjugate gradients with the diagonal as
    preconditioner start from what is kept; one iteration is one product with $G$.

    Args:
      kernel: `[inputs, outputs]`, before anything was removed.
      mask: bool of the same shape.
      gram: `[inputs, inputs]`, damped.
      iterations: at most.
      tolerance: of the residual, as a share of the right-hand side, of each output.

    >>> gram = jnp.array([[1.0, 0.5], [0.5, 1.0]])
    >>> fitted = conjugate_gradients(jnp.array([[1.0], [2.0]]), jnp.array([[False], [True]]), gram)
    >>> fitted.tolist()  # 2 + 0.5 * 1
    [[0.0], [2.5]]
    """
    scale = 1 / jnp.maximum(jnp.diagonal(gram), jnp.finfo(gram.dtype).tiny)[:, None]
    kept = lambda array: jnp.where(mask, array, 0)
    dot = lambda a, b: jnp.sum(a * b, 0)  # of each output
    ratio = lambda a, b: jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)

    def unfinished(state: Any) -> jax.Array:
        step, _, residual, _, _ = state
        return (step < iterations) & jnp.any(dot(residual, residual) > limit)

    def iterate(state: Any) -> Any:
        step, found, residual, direction, size = state
        image = kept(gram @ direction)
        length = ratio(size, dot(direction, image))
        found = found + length[None] * direction
        residual = residual - length[None] * image
        eased = scale * residual
        new = dot(residual, eased)
        direction = eased + ratio(new, size)[None] * direction
        return step + 1, found, residual, direction, new

    with jax.default_matmul_precision("highest"):
        wanted = kept(gram @ kernel)
        limit = tolerance**2 * dot(wanted, wanted)
        start = kept(kernel)
        residual = wanted - kept(gram @ start)
        eased = scale * residual
        state = (0, start, residual, eased, dot(residual, eased))
        return lax.while_loop(unfinished, iterate, state)[1]
