"""A kernel as the rows of a linear map, beside the Gram matrix of what enters it."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["damped", "into_rows"]


def into_rows(
    kernel: jax.Array, moments: jax.Array, gram: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Returns a kernel as [outputs, inputs], and the way back.

    Args:
      kernel: of any shape.
      moments: of its inputs (`jaxprune.signals.input_moments`): length 1 along the axes of outputs.
      gram: [inputs, inputs], in the order of the kernel's own axes.

    >>> rows, back = into_rows(jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.eye(2))
    >>> rows.shape, back(rows).shape
    ((3, 2), (2, 3))
    """
    summed = [i for i in range(kernel.ndim) if moments.shape[i] > 1]
    others = [i for i in range(kernel.ndim) if i not in summed]
    inputs = math.prod(kernel.shape[i] for i in summed)
    if gram.shape != (inputs, inputs):
        raise ValueError(
            f"layerwise: a kernel of the shape {kernel.shape} with moments {moments.shape} has {inputs} "
            f"inputs, but its Gram matrix is {gram.shape}; grouped kernels have no single one."
        )
    order = (*others, *summed)
    moved = kernel.transpose(order)
    inverse = [order.index(i) for i in range(kernel.ndim)]
    back = lambda rows: rows.reshape(moved.shape).transpose(inverse)
    return moved.reshape(-1, inputs), back


def damped(gram: jax.Array, damp: float) -> jax.Array:
    """The Gram matrix with a share of its mean diagonal added; inputs that are always zero stay apart."""
    diagonal = jnp.diagonal(gram)
    mean = jnp.mean(diagonal)
    extra = jnp.where(diagonal > 0, damp * mean, jnp.maximum(mean, 1))
    return gram + jnp.diag(extra.astype(gram.dtype))
