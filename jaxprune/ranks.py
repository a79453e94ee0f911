"""Scores as integers in the same order, and ranks within small contests."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

LOWEST = np.int32(-(2**31))  # the key of NaN
_INFINITY = np.int32(0x7F800000)  # bits of float32 inf
CEILING = 2**31 + int(_INFINITY) + 1  # above every rank


def order_key(scores: Array) -> Array:
    """Maps scores to int32 keys in the same order: NaN lowest, -0.0 equal to 0.0.

    The key is the float32 bit pattern, its magnitude negated below zero. Integer arithmetic
    throughout keeps denormals in order on devices that flush them. Other types are cast to float32.

    Args:
      scores: an array of any real dtype.

    Returns:
      An int32 array of the same shape.

    >>> order_key(jnp.array([1.0, 0.0, -0.0, -1.0])).tolist()
    [1065353216, 0, 0, -1065353216]
    """
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    size = bits & 0x7FFFFFFF
    key = lax.select(bits < 0, -size, size)
    return lax.select(size > _INFINITY, lax.full_like(key, LOWEST), key)


def zero_bits(dtype) -> int:
    """How many low bits are zero in every key of this type."""
    return {"bfloat16": 16, "float16": 13}.get(jnp.dtype(dtype).name, 0)


def to_rank(key: Array, drop: int) -> Array:
    """Keys as uint32 from 0 upwards, without their `drop` low bits."""
    return lax.bitcast_convert_type(key ^ LOWEST, jnp.uint32) >> drop


def to_key(rank: Array, drop: int) -> Array:
    """Inverse of `to_rank`."""
    return lax.bitcast_convert_type(rank << drop, jnp.int32) ^ LOWEST


def to_score(key: Array) -> Array:
    """Inverse of `order_key`, but for NaN."""
    bits = jnp.where(key < 0, LOWEST - key, key)
    return lax.bitcast_convert_type(bits, jnp.float32)


def top_by_comparison(scores: Array, k: Array, axis: int) -> Array:
    """Marks the k largest along a short axis, by comparing every pair once.

    The rank of a score is the number of rivals that beat it; of equal ones the earlier wins.
    """
    key = order_key(scores)
    at = lax.broadcasted_iota(jnp.int32, scores.shape, axis)
    rank = jnp.zeros_like(key)
    for j in range(scores.shape[axis]):
        rival = lax.index_in_dim(key, j, axis)
        rank += (rival + (at > j) > key).astype(jnp.int32)  # an earlier rival also wins a tie
    return rank < k
