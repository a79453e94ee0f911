"""Which inputs and outputs masks leave to each layer."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune.types import Masks

__all__ = ["units"]


def units(masks: Masks) -> list[dict[str, Any]]:
    """Returns how many inputs and outputs of each kernel still have a weight.

    Args:
      masks: bool arrays, the last two axes inputs and outputs, as in Flax's dense kernels and
        convolutions; `None` at leaves without a mask. Leaves of one axis are left out.

    >>> units({"fc": {"kernel": jnp.array([[True, True, False], [False, False, False]])}})
    [{'leaf': 'fc/kernel', 'inputs': 1, 'outputs': 2}]
    """
    bare = masks_lib.unpack(masks)
    named = zip(masks_lib.paths(bare), jax.tree.leaves(bare), strict=True)
    return [
        {"leaf": name, "inputs": _alive(mask, -2), "outputs": _alive(mask, -1)}
        for name, mask in named
        if mask.ndim >= 2
    ]


def _alive(mask: jax.Array, axis: int) -> int:
    others = tuple(i for i in range(mask.ndim) if i != axis % mask.ndim)
    return int(jnp.any(mask, others).sum())
