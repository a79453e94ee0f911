"""How many elements of masks are true: counted in one pass, without an integer array of a mask's size."""

import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxprune.selection.replaceable import replaceable

__all__ = ["count_marked", "count_true", "mean_marked"]


def count_marked(masks: Sequence[Array], axes: tuple[int, ...]) -> tuple[Array, ...]:
    """Returns the counts of several masks along axes, in one reduction.

    XLA:CPU vectorises such a reduction only if it is variadic.

    Args:
      masks: bool or integer arrays of one shape.
      axes: axes that are summed over.
    """

    numbers = tuple(lax.convert_element_type(mask, jnp.int32) for mask in masks)
    return tuple(_sums(numbers, axes))


def _sums(arrays: Sequence[Array], axes: tuple[int, ...]) -> Sequence[Array]:
    """The sums of several arrays of one shape along axes, each in its own type, in one reduction."""

    def add(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(map(operator.add, left, right))

    zeros = tuple(np.zeros((), array.dtype) for array in arrays)
    return lax.reduce(tuple(arrays), zeros, add, axes)


@replaceable(static=["axes", "keepdims"])
def count_true(mask: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """Returns how many are true along axes, int32; on one device without an int32 array of the mask's size.

    Args:
      mask: bool array.
      axes: axes that are counted along.
      keepdims: whether these axes stay, with length 1.

    >>> count_true(jnp.array([[True, False], [True, True]]), (1,))
    Array([1, 2], dtype=int32)
    """
    mesh = jax.typeof(mask).sharding.mesh
    if mesh.auto_axes or mesh.explicit_axes or not axes:
        return jnp.sum(mask, axes, dtype=jnp.int32, keepdims=keepdims)
    true_count, false_count = count_marked([mask, ~mask], axes)
    contest_size = math.prod(mask.shape[axis] for axis in axes)
    # The two are equal; both are read, as XLA:CPU counts one mask alone slowly.
    count = jnp.minimum(true_count, contest_size - false_count)
    return jnp.expand_dims(count, axes) if keepdims else count


@replaceable()
def mean_marked(mask: Array, values: Array) -> Array:
    """Returns the mean of the values where a mask is true, 0 if it is nowhere; stores nothing of their size.

    Sums of rows are summed, in float32 or wider: one running sum would stand still after 1e7 values.

    Args:
      mask: bool array.
      values: floats, of the same shape.

    >>> mean_marked(jnp.array([[True, False], [True, True]]), jnp.array([[3.0, 5.0], [4.0, 2.0]]))
    Array(3., dtype=float32)
    """
    wide_type = jnp.promote_types(values.dtype, jnp.float32)
    chosen_values = jnp.where(mask, values, 0).astype(wide_type)
    mesh = jax.typeof(mask).sharding.mesh
    if mesh.auto_axes or mesh.explicit_axes or mask.ndim < 2:
        return jnp.sum(chosen_values) / jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1)

    # XLA:CPU stores what a reduction of one array reads, and nothing for one of two.
    marks = lax.convert_element_type(mask, jnp.int32)
    row_sums, row_counts = _sums([chosen_values, marks], (mask.ndim - 1,))
    return jnp.sum(row_sums) / jnp.maximum(jnp.sum(row_counts), 1)
