"""A hash of all bits of a tree, by which runs are told to be equal."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.trees import leaves_with_keys

__all__ = ["digest"]


def digest(tree: Any) -> str:
    """Returns a hash of all bits of a tree: equal runs have equal digests.

    >>> digest({"a": jnp.zeros(2)}) == digest({"a": jnp.zeros(2)}) != digest({"a": jnp.ones(2)})
    True
    """
    hasher = hashlib.blake2b(digest_size=16)
    for keys, leaf in leaves_with_keys(tree):
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        hasher.update(f"{keys}{array.dtype}{array.shape}".encode())
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()
