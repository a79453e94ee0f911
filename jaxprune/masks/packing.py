"""Masks packed in one bit per weight, and the check that a tree is one of masks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.trees import content, leaves_with_keys
from jaxprune.types import Masks

__all__ = ["MASKS", "PackedMask", "all_bool", "dense", "is_packed", "pack", "unpack"]

_BOOL = jnp.dtype(bool)


class PackedMask(NamedTuple):
    """A mask in one bit per weight: uint8 `bits`, packed along the last axis of `shape`.

    To JAX the shape is no leaf. It is a named tuple since checkpoints of Flax can hold those.

    Attributes:
      bits: uint8 array, eight weights to an element.
      shape: of the mask.
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

    Args:
      masks: bool arrays, `None` at leaves that are never pruned.

    Returns:
      The same tree of `PackedMask`s.

    >>> pack({"w": jnp.array([True, False, True])})["w"].bits
    Array([160], dtype=uint8)
    """
    checks.check("masks.pack", masks=(masks, MASKS))
    return jax.tree.map(
        lambda mask: PackedMask(_pack_bits(jnp.atleast_1d(mask)), mask.shape), unpack(masks)
    )


def _pack_bits(mask: jax.Array) -> jax.Array:
    """Returns one bit per weight, rows filled up to bytes."""
    if mask.size:
        return jnp.packbits(mask, axis=-1)
    return jnp.zeros((*mask.shape[:-1], -(-mask.shape[-1] // 8)), jnp.uint8)


def unpack(masks: Masks) -> Masks:
    """Returns packed masks as bool arrays; bool arrays stay as they are.

    Args:
      masks: packed masks, or bool arrays, `None` at leaves that are never pruned.

    >>> unpack(pack({"w": jnp.array([True, False, True])}))["w"]
    Array([ True, False,  True], dtype=bool)
    """
    return jax.tree.map(dense, masks, is_leaf=is_packed)


def is_packed(mask: Any) -> bool:
    """Whether a mask is packed; as `is_leaf`, it keeps packed masks whole."""
    return isinstance(mask, PackedMask)


def dense(mask: Any) -> jax.Array:
    """Returns one mask as a bool array, packed or not.

    The bits of several masks of one shape, as `jax.vmap` stacks them, are several masks.
    """
    if not is_packed(mask):
        return mask
    # In lanes as wide as the weights: unpacked as bytes, the mask costs more than the bits save.
    packed = content(mask.bits)
    lanes = jnp.broadcast_to(packed.astype(jnp.int32)[..., None], (*packed.shape, 8))
    byte_of_weight = lanes.reshape(*packed.shape[:-1], 8 * packed.shape[-1])
    last_axis = byte_of_weight.ndim - 1
    bit_index = jax.lax.broadcasted_iota(jnp.int32, byte_of_weight.shape, last_axis) % 8
    row_length = mask.shape[-1] if mask.shape else 1
    bits = (byte_of_weight << bit_index) & 128 != 0
    stacked_shape = packed.shape[: packed.ndim - max(len(mask.shape), 1)]
    return bits[..., :row_length].reshape(*stacked_shape, *mask.shape)


def all_bool(tree: Any) -> bool:
    """Whether every leaf is a mask."""
    leaves = jax.tree.leaves(tree, is_leaf=is_packed)
    return all(getattr(leaf, "dtype", None) == _BOOL for leaf in leaves)


def _masks_remedy(value: Any) -> str:
    leaves = leaves_with_keys(value, lambda _, node: is_packed(node))
    keys, leaf = next(
        (keys, leaf) for keys, leaf in leaves if getattr(leaf, "dtype", None) != _BOOL
    )
    dtype = getattr(leaf, "dtype", None)
    fault = f"its leaf {'/'.join(keys)!r} is {dtype}; " if keys and dtype else ""
    return f"{fault}masks.make(params) makes masks, and jaxprune.masks_of(opt_state) reads them"


MASKS = checks.Kind("a tree of bool arrays", all_bool, _masks_remedy)
