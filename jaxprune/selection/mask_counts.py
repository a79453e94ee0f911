"""How many elements of masks are true: counted in one pass, without an integer array of a mask's size."""

import math
import operator
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

__all__ = ["count_marked", "count_true"]


def count_marked(masks: Sequence[Array], axes: tuple[int, ...]) -> tuple[Array, ...]:
    """Returns the counts of several masks along axes, in one reduction.

    XLA:CPU vectorises such a reduction only if it is variadic.

    Args:
      masks: bool or integer arrays of one shape.
      axes: axes that are summed over.
    """

    def add(left: Sequence[Array], right: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(map(operator.add, left, right))

    numbers = tuple(lax.convert_element_type(mask, jnp.int32) for mask in masks)
    return tuple(lax.reduce(numbers, (np.int32(0),) * len(numbers), add, axes))


@partial(jax.jit, static_argnames=("axes", "keepdims"))
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
