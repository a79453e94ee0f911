"""Which inputs and outputs masks leave to each layer."""

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
    """Returns how many inputs and outputs of each kernel still have a weight, layer by layer.

    Args:
      masks: bool arrays; `None` at leaves without a mask. Leaves of one axis are left out.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: their shapes tell, and those that do not are refused.

    Raises:
      ValueError: if it is not known which axes of a leaf are inputs.

    >>> units({"fc": {"kernel": jnp.array([[True, True, False], [False, False, False]])}})
    [{'leaf': 'fc/kernel', 'inputs': 1, 'outputs': 2}]
    """
    checks.check("units", masks=(masks, masks_lib.MASKS))
    bare = masks_lib.unpack(masks)
    leaves = dict(zip(masks_lib.paths(bare), jax.tree.leaves(bare), strict=True))
    kernels = kernel_axes.by_path(axes, leaves)
    rows = []
    for path, mask in leaves.items():
        if mask.ndim < 2:
            continue
        kernel = kernel_axes.told(mask.shape, kernels[path])
        if kernel.in_axis is None:
            raise ValueError(
                f"units: which axes of {path!r} are inputs is not known, as {kernel.reason}; give "
                "axes=jaxprune.axes(apply, params, *inputs)."
            )
        names = trees.layer_names(path, [mask.shape[axis] for axis in kernel.batch_axis])
        inputs = _alive(mask, kernel.in_axis, kernel.batch_axis)
        outputs = _alive(mask, kernel.out_axis, kernel.batch_axis)
        rows += [
            {"leaf": name, "inputs": int(into), "outputs": int(out)}
            for name, into, out in zip(names, inputs, outputs, strict=True)
        ]
    return rows


def _alive(mask: jax.Array, side: Sequence[int], layers: Sequence[int]) -> np.ndarray:
    """Per layer, of how many units along some axes a weight is left."""
    others = tuple(axis for axis in range(mask.ndim) if axis not in (*side, *layers))
    living = jnp.any(mask, others, keepdims=True)
    within = tuple(axis for axis in range(mask.ndim) if axis not in layers)
    return np.asarray(living.sum(within)).ravel()
