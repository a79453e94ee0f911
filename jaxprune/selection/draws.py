"""Uniform random numbers, one array per leaf, that a compiled program can compute where it reads them.

Drawn by JAX, the numbers of a leaf are an array that is stored, made in a loop over the rounds of the
generator, which XLA:CPU compiles anew for each leaf. Here each number is an expression of its position, so
that a pass over the leaf computes them on the way (`selection.deferred`). They are the same numbers.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxprune.selection.deferred import is_deferring
from jaxprune.selection.replaceable import replaceable

__all__ = ["threefry_uniform", "uniform_by_leaf"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_KEY_PARITY = 0x1BD11BDA
_GROUPS_OF_ROUNDS = 5  # of four


def uniform_by_leaf(key: Array, sizes: Sequence[int]) -> list[Array]:
    """Returns numbers uniform in [0, 1), for leaf i those of `jax.random.uniform` with `fold_in(key, i)`.

    Args:
      key: PRNG key of any kind.
      sizes: how many for each leaf.

    >>> [numbers] = uniform_by_leaf(jax.random.key(0), [3])
    >>> bool((numbers == jax.random.uniform(jax.random.fold_in(jax.random.key(0), 0), (3,))).all())
    True
    """
    if not sizes:
        return []
    if not (is_deferring() and _is_known(key, max(sizes))):
        return [
            jax.random.uniform(jax.random.fold_in(key, index), (size,))
            for index, size in enumerate(sizes)
        ]
    leaf_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, np.arange(len(sizes)))
    words = jax.random.key_data(leaf_keys)
    return [
        threefry_uniform(words[index, 0], words[index, 1], size=size)
        for index, size in enumerate(sizes)
    ]


def _is_known(key: Array, size: int) -> bool:
    """Whether JAX draws the numbers as `threefry_uniform` does."""
    return (
        str(jax.random.key_impl(key)) == "threefry2x32"
        and bool(jax.config.jax_threefry_partitionable)  # pyright: ignore[reportAttributeAccessIssue]
        and jax.random.key_data(key).ndim == 1
        and jax.dtypes.canonicalize_dtype(float) == jnp.float32
        and size < 2**32
    )


@replaceable(static=["size"])
def threefry_uniform(first_word: Array, second_word: Array, *, size: int) -> Array:
    """Returns numbers uniform in [0, 1), float32[size], by the Threefry generator of 20 rounds.

    Args:
      first_word: of the key, a uint32 scalar.
      second_word: of the key, a uint32 scalar.
      size: how many.

    References:
      Salmon, Moraes, Dror & Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
    """
    words = (first_word, second_word, first_word ^ second_word ^ np.uint32(_KEY_PARITY))
    left = jnp.full((size,), words[0])  # the upper half of each position is zero
    right = lax.iota(jnp.uint32, size) + words[1]
    for group in range(_GROUPS_OF_ROUNDS):
        for rotation in _ROTATIONS[group % 2]:
            left = left + right
            right = (right << np.uint32(rotation)) | (right >> np.uint32(32 - rotation))
            right = left ^ right
        left = left + words[(group + 1) % 3]
        right = right + (words[(group + 2) % 3] + np.uint32(group + 1))
    # The upper 23 bits are the fraction of a number in [1, 2).
    bits = ((left ^ right) >> np.uint32(9)) | np.uint32(0x3F800000)
    return lax.bitcast_convert_type(bits, jnp.float32) - jnp.float32(1)
