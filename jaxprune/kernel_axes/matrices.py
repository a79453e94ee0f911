"""A kernel as the rows of one linear map per layer, and least squares under the Gram matrix of its inputs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune import checks
from jaxprune.calls import is_traced
from jaxprune.types import Axes

__all__ = ["Rows", "check_damp", "conjugate_gradients", "damped", "into_rows"]


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

    Raises:
      ValueError: if the Gram matrix is of another size.

    >>> rows = into_rows(jnp.ones((2, 3)), Axes(0, 1), jnp.eye(2))
    >>> rows.kernel.shape, rows.back(rows.kernel).shape
    ((1, 3, 2), (2, 3))
    """
    output_axes = axes.out_axis or ()
    other_axes = (*axes.batch_axis, *output_axes)
    input_axes = [axis for axis in range(kernel.ndim) if axis not in other_axes]
    layer_shape = [kernel.shape[axis] for axis in axes.batch_axis]
    input_count = math.prod(kernel.shape[axis] for axis in input_axes)
    if gram.shape != (*layer_shape, input_count, input_count):
        layers_text = f" and layers {tuple(layer_shape)}" if layer_shape else ""
        raise ValueError(
            f"layerwise: a kernel of the shape {kernel.shape} with {axes} has {input_count} inputs"
            f"{layers_text}, but its Gram matrix is {gram.shape}; give "
            "what jaxprune.signals.grams and jaxprune.axes return for these parameters."
        )
    order = (*other_axes, *input_axes)
    transposed = kernel.transpose(order)
    inverse_order = [order.index(axis) for axis in range(kernel.ndim)]
    layer_count = math.prod(layer_shape)
    return Rows(
        transposed.reshape(layer_count, -1, input_count),
        gram.reshape(layer_count, input_count, input_count),
        lambda rows: rows.reshape(transposed.shape).transpose(inverse_order),
    )


def check_damp(who: str, damp: float) -> None:
    """Raises an error if a share of the mean diagonal is no number, negative, infinite or NaN."""
    if is_traced(damp):
        return
    checks.check(who, damp=(damp, checks.NUMBER))
    if not 0 <= damp < math.inf:
        raise ValueError(
            f"{who}(damp={damp}): a share of the mean diagonal, 0 or above, is needed."
        )


def damped(gram: jax.Array, damp: float) -> jax.Array:
    """Returns the Gram matrix with a share of its mean diagonal added to its diagonal.

    Inputs that are always zero get the mean itself, or 1, so that no weight of theirs is coupled to others.

    Args:
      gram: `[inputs, inputs]`.
      damp: share of the mean diagonal.

    >>> damped(jnp.diag(jnp.array([3.0, 1.0])), 0.5)
    Array([[4., 0.],
           [0., 2.]], dtype=float32)
    """
    diagonal = jnp.diagonal(gram)
    mean = jnp.mean(diagonal)
    added = jnp.where(diagonal > 0, damp * mean, jnp.maximum(mean, 1))
    return gram + jnp.diag(added.astype(gram.dtype))


def conjugate_gradients(
    kernel: jax.Array,
    mask: jax.Array,
    gram: jax.Array,
    *,
    iterations: int = 64,
    tolerance: float = 1e-4,
) -> jax.Array:
    r"""Returns the kept weights refitted to the dense layer's outputs, by least squares for each output.

    Of each output, the kept weights $v$ solve $G_{KK} v = (G w)_K$. Conjugate gradients with the diagonal as
    preconditioner start from what is kept; one iteration is one product with $G$.

    Args:
      kernel: `[inputs, outputs]`, before anything was removed.
      mask: bool of the same shape.
      gram: `[inputs, inputs]`, damped.
      iterations: number of products with $G$, at most.
      tolerance: norm of the residual, as a share of that of the right-hand side, of each output.

    >>> gram = jnp.array([[1.0, 0.5], [0.5, 1.0]])
    >>> fitted = conjugate_gradients(jnp.array([[1.0], [2.0]]), jnp.array([[False], [True]]), gram)
    >>> fitted.tolist()  # 2 + 0.5 * 1
    [[0.0], [2.5]]
    """
    inverse_diagonal = 1 / jnp.maximum(jnp.diagonal(gram), jnp.finfo(gram.dtype).tiny)[:, None]

    def keep(array: jax.Array) -> jax.Array:
        return jnp.where(mask, array, 0)

    def unfinished(state: Any) -> jax.Array:
        iteration, _, residual, _, _ = state
        return (iteration < iterations) & jnp.any(_column_dots(residual, residual) > limit)

    def iterate(state: Any) -> Any:
        iteration, solution, residual, direction, residual_size = state
        image = keep(gram @ direction)
        step_length = _safe_ratio(residual_size, _column_dots(direction, image))
        solution = solution + step_length[None] * direction
        residual = residual - step_length[None] * image
        preconditioned = inverse_diagonal * residual
        new_size = _column_dots(residual, preconditioned)
        direction = preconditioned + _safe_ratio(new_size, residual_size)[None] * direction
        return iteration + 1, solution, residual, direction, new_size

    with jax.default_matmul_precision("highest"):
        right_side = keep(gram @ kernel)
        limit = tolerance**2 * _column_dots(right_side, right_side)
        start = keep(kernel)
        residual = right_side - keep(gram @ start)
        preconditioned = inverse_diagonal * residual
        state = (0, start, residual, preconditioned, _column_dots(residual, preconditioned))
        return lax.while_loop(unfinished, iterate, state)[1]


def _column_dots(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the inner product of the columns of two matrices, one per output."""
    return jnp.sum(a * b, 0)


def _safe_ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Returns the ratio where the denominator is above 0, and 0 elsewhere."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1), 0)
