"""Shardings on meshes of explicit axes, where what reads all of an array must ask for all of it.

On other meshes the compiler moves what is needed, and these functions return what they are given.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.calls import is_traced

__all__ = ["sharded_like", "whole"]


def whole(array: Any, axes: Iterable[int] | None = None) -> jax.Array:
    """Returns the array whole along some axes on each device of an explicit mesh.

    Args:
      array: of any shape.
      axes: which, counted from 0; `None`: all.

    >>> whole(jnp.ones(2))
    Array([1., 1.], dtype=float32)
    """
    array = jnp.asarray(array)
    sharding = _explicit_sharding(array)
    if sharding is None:
        return array
    whole_axes = frozenset(range(array.ndim) if axes is None else axes)
    spec = (*sharding.spec, *[None] * (array.ndim - len(sharding.spec)))
    kept = [None if axis in whole_axes else name for axis, name in enumerate(spec)]
    return jax.sharding.reshard(array, NamedSharding(sharding.mesh, PartitionSpec(*kept)))


def sharded_like(array: jax.Array, like: jax.Array) -> jax.Array:
    """Returns an array with the sharding of another one on an explicit mesh.

    >>> sharded_like(jnp.ones(2), jnp.zeros(2))
    Array([1., 1.], dtype=float32)
    """
    sharding = _explicit_sharding(like)
    return array if sharding is None else jax.sharding.reshard(array, sharding)


def _explicit_sharding(array: jax.Array) -> Any:
    """Returns the sharding of an array on an explicit mesh; `None` elsewhere."""
    sharding = jax.typeof(array).sharding
    if not sharding.mesh.explicit_axes:
        return None
    return sharding if is_traced(array) else array.sharding  # with its devices
