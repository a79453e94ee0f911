"""Whole numbers of survivors, exact where float32 is not."""

import jax
import jax.numpy as jnp

from jaxprune.types import Sparsity

__all__ = ["apportion", "survivors"]

_UNIT = 10**7  # a sparsity of one


def survivors(n: jax.Array | int, sparsity: Sparsity) -> jax.Array:
    """Returns `n - round(n * sparsity)`, exact for every `n` below 2**31.

    Args:
      n: units, a Python integer or an int32 scalar.
      sparsity: fraction removed, a Python float or a float32 scalar; read to seven decimals.

    Returns:
      int32 scalar.

    >>> [int(survivors(10**8, s)) for s in (0.9, jnp.float32(0.9), 0.0, 1.0)]
    [10000000, 10000000, 100000000, 0]
    """
    # 64-bit product out of 32-bit pieces: n = a 10^7 + b 10^4 + c, sparsity 10^7 = d 10^4 + e.
    n = jnp.asarray(n, jnp.int32)
    parts = jnp.round(jnp.asarray(sparsity, jnp.float32) * _UNIT).astype(jnp.int32)
    a, b, c = n // _UNIT, n % _UNIT // 10_000, n % 10_000
    d, e = parts // 10_000, parts % 10_000
    cross = b * e + c * d
    rest = cross % 1_000 * 10_000 + c * e
    return n - (a * parts + b * d * 10 + cross // 1_000 + (rest + _UNIT // 2) // _UNIT)


def apportion(density: jax.Array, sizes: jax.Array, total: jax.Array) -> jax.Array:
    """Rounds `density * sizes` to integers that add up to `total` (largest remainders first)."""
    wanted = density * sizes.astype(jnp.float32)
    floor = jnp.minimum(jnp.floor(wanted).astype(jnp.int32), sizes)
    rank = jnp.argsort(jnp.argsort(-(wanted - floor), stable=True), stable=True)
    counts = jnp.minimum(floor + (rank < total - jnp.sum(floor)), sizes)
    # What float32 could not resolve goes where there is room: only leaves beyond 2**24 weights see it.
    left = total - jnp.sum(counts)
    room = jnp.where(left > 0, sizes - counts, counts)
    return counts + jnp.where(jnp.arange(len(sizes)) == jnp.argmax(room), left, 0)
