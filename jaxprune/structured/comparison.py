"""How far two results of a function are apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["relative_error"]

_FILLED = 1e4  # numbers as large as this that both have are fillings, of masks for instance


def relative_error(ours: Any, theirs: Any) -> float:
    """Returns the largest difference of two trees of arrays, of each output over its own largest size.

    NaN in either is no agreement: the error is infinite. Infinities and the like (-1e9 where a mask is) that
    both have in the same places do not count for the size of the output.

    >>> relative_error([np.array([1.0, 2.0]), np.array([1e6])], [np.array([1.0, 4.0]), np.array([1e6])])
    0.5
    >>> relative_error(np.array([np.nan]), np.array([np.nan]))
    inf
    """
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max((_error(_numbers(a), _numbers(b)) for a, b in pairs), default=0.0)


def _numbers(x: Any) -> np.ndarray:
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    found = np.asarray(x)
    return found.astype(complex if np.iscomplexobj(found) else float)


def _error(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape or np.isnan(a).any() or np.isnan(b).any():
        return float("inf")
    counts = ~((a == b) & (np.abs(b) >= _FILLED))
    a, b = a[counts], b[counts]
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max(initial=0.0)) / max(float(np.abs(b).max(initial=0.0)), 1e-30)
