"""Masks in one bit per weight, and what counts as a tree of masks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.trees import content, keys_of
from jaxprune.types import Masks

__all__ = ["MASKS", "PackedMask", "all_bool", "dense", "is_packed", "pack", "unpack"]

_BOOL = jnp.dtype(bool)


class PackedMask(NamedTuple):
    """A mask in one bit per weight: uint8 `bits`, packed along the last axis of `shape`.

    To JAX the shape is no leaf. It is a named tuple since checkpoints of Flax can hold those.
    """

    bits: jax.Array
    shape: tuple[int, ...]

    @property
    def dtype(self) -> Any:
        """The dtype of the mask, not of its bits."""
        return _BOOL


jax.tree_util.register_pytree_with_keys(
    PackedMask,
    lambda mask: (((jax.tree_util.GetAttrKey("bits"), mask.bits),), mask.shape),
    lambda shape, children: PackedMask(next(iter(children)), shape),
)


def pack(masks: Masks) -> Masks:
    """Returns the masks in one bit per weight (eight times smaller; rows are padded to bytes).

    >>> pack({"w": jnp.array([True, False, True])})["w"].bits
    Array([160], dtype=uint8)
    """
    checks.check("masks.pack", masks=(masks, MASKS))
    return jax.tree.map(lambda m: PackedMask(_bits(jnp.atleast_1d(m)), m.shape), unpack(masks))


def _bits(mask: jax.Array) -> jax.Array:
    """One bit per weight, rows filled up to bytes."""
    if mask.size:
        return jnp.packbits(mask, axis=-1)
    return jnp.zeros((*mask.shape[:-1], -(-mask.shape[-1] // 8)), jnp.uint8)


def unpack(masks: Masks) -> Masks:
    """Returns packed masks as bool arrays; bool arrays stay as they are.

    >>> unpack(pack({"w": jnp.array([True, False, True])}))["w"]
    Array([ True, False,  True], dtype=bool)
    """
    return jax.tree.map(dense, masks, is_leaf=is_packed)


def is_packed(mask: Any) -> bool:
    """Whether a mask is packed: as `is_leaf`, what keeps it whole."""
    return isinstance(mask, PackedMask)


def dense(mask: Any) -> jax.Array:
    """Returns one mask as a bool array, packed or not."""
    if not is_packed(mask):
        return mask
    # In lanes as wide as the weights: unpacked as bytes, the mask costs more than the bits save.
    packed = content(mask.bits)
    lanes = jnp.broadcast_to(packed.astype(jnp.int32)[..., None], (*packed.shape, 8))
    spread = lanes.reshape(*packed.shape[:-1], 8 * packed.shape[-1])
    place = jax.lax.broadcasted_iota(jnp.int32, spread.shape, spread.ndim - 1) % 8
    last = mask.shape[-1] if mask.shape else 1
    return ((spread << place) & 128 != 0)[..., :last].reshape(mask.shape)


def all_bool(tree: Any) -> bool:
    """Whether every leaf is a mask."""
    found = jax.tree.leaves(tree, is_leaf=is_packed)
    return all(getattr(leaf, "dtype", None) == _BOOL for leaf in found)


def _masks_remedy(value: Any) -> str:
    named = jax.tree_util.tree_leaves_with_path(value, is_leaf=is_packed)
    path, leaf = next((p, leaf) for p, leaf in named if getattr(leaf, "dtype", None) != _BOOL)
    dtype = getattr(leaf, "dtype", None)
    found = f"its leaf {'/'.join(keys_of(path))!r} is {dtype}; " if path and dtype else ""
    return f"{found}masks.make(params) makes masks, and jaxprune.masks_of(opt_state) reads them"


MASKS = checks.Kind("a tree of bool arrays", all_bool, _masks_remedy)
