"""The relative error of one result of a function beside another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["relative_error"]

_FILL_VALUE = 1e4  # equal numbers of this size or more are fillings, of masks for instance


def relative_error(ours: Any, theirs: Any) -> float:
    """Returns the largest difference of two trees of arrays, relative to the largest number of each array.

    NaN in either is no agreement: the error is infinite. Infinities and the like (-1e9 where a mask is) that
    both have in the same places do not count as the largest number.

    Args:
      ours: tree of arrays.
      theirs: the same tree; the largest numbers are those of its arrays.

    >>> relative_error([np.array([1.0, 2.0]), np.array([1e6])], [np.array([1.0, 4.0]), np.array([1e6])])
    0.5
    >>> relative_error(np.array([np.nan]), np.array([np.nan]))
    inf
    """
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    errors = (_error(_widened(our_leaf), _widened(their_leaf)) for our_leaf, their_leaf in pairs)
    return max(errors, default=0.0)


def _widened(x: Any) -> np.ndarray:
    """Returns an array in float64 or complex128; of PRNG keys, their data."""
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    array = np.asarray(x)
    return array.astype(complex if np.iscomplexobj(array) else float)


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape or np.isnan(ours).any() or np.isnan(theirs).any():
        return float("inf")
    counted_mask = ~((ours == theirs) & (np.abs(theirs) >= _FILL_VALUE))
    ours = ours[counted_mask]
    theirs = theirs[counted_mask]
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf")
    difference = float(np.abs(ours - theirs).max(initial=0.0))
    return difference / max(float(np.abs(theirs).max(initial=0.0)), 1e-30)
