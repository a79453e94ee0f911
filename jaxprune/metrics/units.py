"""Counts the inputs and outputs of each layer that still have weights under masks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, kernel_axes, trees
from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree
from jaxprune.types import Masks

__all__ = ["units"]


def units(masks: Masks, axes: AxesTree | None = None) -> list[dict[str, Any]]:
    """Returns, for each layer, the number of its inputs and of its outputs that still have a weight.

    Args:
      masks: tree of bool arrays, `None` at leaves without a mask. Leaves with one axis are left out.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: they follow from the shapes; leaves for which they do not are refused.

    Returns:
      For each layer, in the order of the leaves and within a stack, a dict of `leaf` (its path, or the
      layer's name in a stack), `inputs` and `outputs`.

    Raises:
      TypeError: if `masks` is not a tree of masks.
      ValueError: if it is not known which axes of a leaf are inputs.

    >>> units({"fc": {"kernel": jnp.array([[True, True, False], [False, False, False]])}})
    [{'leaf': 'fc/kernel', 'inputs': 1, 'outputs': 2}]
    """
    checks.check("units", masks=(masks, masks_lib.MASKS))
    bool_masks = masks_lib.unpack(masks)
    paths = masks_lib.paths(bool_masks)
    trees.check_distinct("units", paths)
    mask_by_path = dict(zip(paths, jax.tree.leaves(bool_masks), strict=True))
    axes_by_path = kernel_axes.by_path(axes, mask_by_path)
    rows = []
    for path, mask in mask_by_path.items():
        if mask.ndim < 2:
            continue
        leaf_axes = kernel_axes.resolve_axes(mask.shape, axes_by_path[path])
        if leaf_axes.in_axis is None:
            raise ValueError(
                f"units: which axes of {path!r} are inputs is not known, as {leaf_axes.reason}; give "
                "axes=jaxprune.axes(apply, params, *inputs)."
            )
        names = trees.layer_names(path, [mask.shape[axis] for axis in leaf_axes.batch_axis])
        input_counts = _count_alive(mask, leaf_axes.in_axis, leaf_axes.batch_axis)
        output_counts = _count_alive(mask, leaf_axes.out_axis, leaf_axes.batch_axis)
        rows += [
            {"leaf": name, "inputs": int(input_count), "outputs": int(output_count)}
            for name, input_count, output_count in zip(
                names, input_counts, output_counts, strict=True
            )
        ]
    return rows


def _count_alive(mask: jax.Array, side: Sequence[int], layers: Sequence[int]) -> np.ndarray:
    """Returns per layer the number of indices of some axes at which a weight is left."""
    other_axes = tuple(axis for axis in range(mask.ndim) if axis not in (*side, *layers))
    has_weight = jnp.any(mask, other_axes, keepdims=True)
    axes_within_layer = tuple(axis for axis in range(mask.ndim) if axis not in layers)
    return np.asarray(has_weight.sum(axes_within_layer)).ravel()
