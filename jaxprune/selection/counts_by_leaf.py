"""How many elements of masks are true, leaf by leaf: one function for all leaves, and one array of counts.

Within a program whose scores are computed where they are read (`selection.deferred`), so are the masks that
are counted here, and many equal leaves are counted in a loop (`selection.leaf_loops`).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxprune.selection.deferred import Recipe, recipe_of
from jaxprune.selection.leaf_loops import Leaf, fold_leaves
from jaxprune.selection.mask_counts import count_marked
from jaxprune.selection.replaceable import replaceable
from jaxprune.selection.shared_kernels import compiled_once

__all__ = ["count_by_leaf", "count_masks_by_leaf", "count_where_read"]


def count_by_leaf(masks: Sequence[Array]) -> Array:
    """Returns how many are true in each of several masks, int32[masks].

    >>> count_by_leaf([jnp.array([[True, False]]), jnp.array([True, True])])
    Array([1, 2], dtype=int32)
    """
    return count_masks_by_leaf(tuple((mask,) for mask in masks))[:, 0]


@replaceable()
def count_masks_by_leaf(masks: tuple[tuple[Array, ...], ...]) -> Array:
    """Returns how many are true in the masks of each leaf, as many of each, int32[leaves, masks]."""
    flat_masks = list(itertools.chain.from_iterable(masks))
    meshes = [jax.typeof(mask).sharding.mesh for mask in flat_masks]
    if any(mesh.auto_axes or mesh.explicit_axes for mesh in meshes):
        counts = [jnp.sum(mask, dtype=jnp.int32) for mask in flat_masks]
        return jnp.stack(counts).reshape(len(masks), -1)
    return jnp.stack([_counts_of_leaf(leaf_masks) for leaf_masks in masks])


def count_where_read(equation: Any, inputs: list[Any]) -> list[Array]:
    """Runs `count_masks_by_leaf` in a program whose masks are computed where they are read.

    Args:
      equation: that calls it.
      inputs: masks, arrays or `Computed` values, leaf after leaf.
    """
    leaf_count, mask_count = equation.outvars[0].aval.shape
    leaves = []
    for index in range(leaf_count):
        leaf_masks = inputs[index * mask_count : (index + 1) * mask_count]
        recipe, arrays = recipe_of(leaf_masks)
        leaves.append(Leaf((recipe, leaf_masks[0].shape), (index,), tuple(arrays)))

    def count(counts: Array, numbers: Any, arrays: tuple[Any, ...], kind: Any) -> Array:
        return _count_into(counts, numbers[0], arrays, recipe=kind[0])

    return [fold_leaves(count, jnp.zeros((leaf_count, mask_count), jnp.int32), leaves)]


@compiled_once(static=["recipe"])
def _count_into(counts: Array, index: Array, arrays: tuple[Any, ...], *, recipe: Recipe) -> Array:
    """The counts of all leaves, with those of one leaf in them."""
    row = _counts_of_leaf(recipe(*arrays))
    return lax.dynamic_update_slice(counts, row[None], (index, np.uint32(0)))


def _counts_of_leaf(masks: Sequence[Array]) -> Array:
    """How many are true in masks of one shape."""
    if not masks[0].ndim:
        return jnp.stack([lax.convert_element_type(mask, jnp.int32) for mask in masks])
    axes = tuple(range(masks[0].ndim))
    if len(masks) > 1:
        return jnp.stack(count_marked(masks, axes))
    [mask] = masks
    true_count, false_count = count_marked([mask, ~mask], axes)
    # The two are equal; both are read, as XLA:CPU counts one mask alone slowly.
    return jnp.minimum(true_count, math.prod(mask.shape) - false_count)[None]
