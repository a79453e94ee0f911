"""The dtype in which numbers of several dtypes are added: no narrower than float32 where they differ.

Nothing promotes 8-bit floats, or narrower ones: JAX refuses to add them to any other type. Here they count as
float32, which holds every one of their numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["at_least_float32", "common", "widen"]


def at_least_float32(*dtypes: Any) -> Any:
    """Returns the dtype that holds numbers of all these types, float32 or wider.

    >>> at_least_float32(jnp.bfloat16), at_least_float32(jnp.float8_e4m3fn, jnp.float16)
    (dtype('float32'), dtype('float32'))
    """
    widest = jnp.dtype(jnp.float32)
    for dtype in dtypes:
        if not _is_tiny(dtype):
            widest = jnp.promote_types(widest, dtype)
    return widest


def common(first: Any, second: Any) -> Any:
    """Returns the dtype in which numbers of two types are added: their own, if it is the same.

    >>> common(jnp.float8_e5m2, jnp.float8_e5m2), common(jnp.float8_e5m2, jnp.bfloat16)
    (dtype(float8_e5m2), dtype('float32'))
    """
    if jnp.dtype(first) == jnp.dtype(second):
        return jnp.dtype(first)
    if _is_tiny(first) or _is_tiny(second):
        return at_least_float32(first, second)
    return jnp.promote_types(first, second)


def widen(array: Any) -> jax.Array:
    """Returns an array in float32, or as it is if that is wider.

    Products of scores are made so: of numbers as small as gradients, float16 holds the factors but not the
    product.

    >>> widen(jnp.float16(1e-6)) * widen(jnp.float16(1e-2)) > 0
    Array(True, dtype=bool)
    """
    array = jnp.asarray(array)
    return array.astype(at_least_float32(array.dtype))


def _is_tiny(dtype: Any) -> bool:
    is_floating = jnp.issubdtype(dtype, jnp.floating)
    return bool(is_floating) and jnp.finfo(dtype).bits <= 8
