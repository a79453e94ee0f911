"""Scores as integers in the same order, and ranks within small contests."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

LOWEST = np.int32(-(2**31))  # the key of NaN
_INFINITY = np.int32(0x7F800000)  # bits of float32 inf
LARGEST = _INFINITY - 1  # the key of the largest finite number
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
    magnitude = bits & 0x7FFFFFFF
    key = lax.select(bits < 0, -magnitude, magnitude)
    return lax.select(magnitude > _INFINITY, lax.full_like(key, LOWEST), key)


def zero_bits(dtype: Any) -> int:
    """Returns how many low bits are zero in the key of every score of this dtype."""
    return {"bfloat16": 16, "float16": 13}.get(jnp.dtype(dtype).name, 0)


def to_rank(key: Array, drop: int) -> Array:
    """Returns keys as uint32 from 0 upwards, without their `drop` low bits."""
    return lax.bitcast_convert_type(key ^ LOWEST, jnp.uint32) >> drop


def to_key(rank: Array, drop: int) -> Array:
    """Returns the keys of ranks: the inverse of `to_rank`, with zeros for the bits that it dropped."""
    return lax.bitcast_convert_type(rank << drop, jnp.int32) ^ LOWEST


def to_score(key: Array) -> Array:
    """Returns the scores of keys: the inverse of `order_key`, but for NaN."""
    bits = jnp.where(key < 0, LOWEST - key, key)
    return lax.bitcast_convert_type(bits, jnp.float32)


def top_by_comparison(scores: Array, k: Array, axis: int) -> Array:
    """Marks the k largest along a short axis, by comparing every pair once.

    A score is among them if fewer than k rivals beat it; of equal ones the earlier wins.

    Args:
      scores: an array of any real dtype.
      k: int32, how many to keep, one number or what broadcasts against the scores.
      axis: along which scores compete.

    >>> top_by_comparison(jnp.array([1.0, 3.0, 3.0, 2.0]), jnp.int32(1), axis=0).astype(int)
    Array([0, 1, 0, 0], dtype=int32)
    """
    keys = order_key(scores)
    positions = lax.broadcasted_iota(jnp.int32, scores.shape, axis)
    better_count = jnp.zeros_like(keys)
    for i in range(scores.shape[axis]):
        rival = lax.index_in_dim(keys, i, axis)
        # An earlier rival also wins a tie.
        better_count += (rival + (positions > i) > keys).astype(jnp.int32)
    return better_count < k
