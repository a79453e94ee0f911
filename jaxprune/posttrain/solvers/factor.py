"""The upper factor of a damped Gram matrix, and inverses of its blocks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["Factor", "damped", "factor", "inverses"]

_TRIES = 6
_LEAST = 1e-6  # from which damping rises if none was asked for


class Factor(NamedTuple):
    r"""$H = R R^\top$ with $R$ upper triangular.

    Attributes:
      upper: $R$ with each column divided by its diagonal entry: its own diagonal is 1.
      diagonal: of $R$.
      damp: what was added to the diagonal of $H$, as a share of its mean.
    """

    upper: jax.Array
    diagonal: jax.Array
    damp: jax.Array


def factor(gram: jax.Array, damp: Any, inputs: int) -> Factor:
    """Returns the factor of a Gram matrix, damped ten times as much while it is not finite.

    Args:
      gram: symmetric; rows from `inputs` on are padding.
      damp: share of the mean of its diagonal that is added to it.
      inputs: how many rows are real.

    >>> found = factor(jnp.array([[1.0, 1.0], [1.0, 1.0]]), 0.0, 2)
    >>> bool(jnp.isfinite(found.upper).all()), float(found.damp) > 0
    (True, True)
    """

    def failed(state: Any) -> jax.Array:
        tried, _, lower = state
        return (tried == 0) | ((tried <= _TRIES) & ~jnp.isfinite(lower).all())

    def attempt(state: Any) -> Any:
        tried, damp, _ = state
        more = jnp.where(tried == 0, damp, jnp.maximum(10 * damp, _LEAST))
        backwards = damped(gram, more, inputs)[::-1, ::-1]
        return tried + 1, more, jnp.linalg.cholesky(backwards, symmetrize_input=False)

    start = 0, jnp.asarray(damp, gram.dtype), gram
    _, used, lower = lax.while_loop(failed, attempt, start)
    upper = lower[::-1, ::-1]
    diagonal = jnp.diagonal(upper)
    return Factor(upper / diagonal[None], diagonal, used)


def damped(gram: jax.Array, damp: Any, inputs: int) -> jax.Array:
    """The Gram matrix with a share of the mean of its diagonal added; that of zeros counts as 1."""
    diagonal = jnp.diagonal(gram)
    real = jnp.arange(len(gram)) < inputs
    mean = jnp.sum(jnp.where(real, diagonal, 0)) / inputs
    mean = jnp.where(mean > 0, mean, 1)
    extra = jnp.where(real, damp * mean, mean)
    extra = jnp.where(real & (diagonal + extra == 0), mean * 1e-6, extra)
    return gram + jnp.diag(extra.astype(gram.dtype))


def inverses(blocks: jax.Array) -> jax.Array:
    """Inverses of upper triangular matrices with unit diagonals, `[blocks, n, n]`, row by row from the last.

    All blocks at once: LAPACK would be called for each, and compiles no faster.

    >>> inverses(jnp.array([[[1.0, 2.0], [0.0, 1.0]]])).tolist()
    [[[1.0, -2.0], [0.0, 1.0]]]
    """
    size = blocks.shape[-1]
    above = jnp.triu(blocks, 1)
    eye = jnp.eye(size, dtype=blocks.dtype)

    def row(step: Any, found: jax.Array) -> jax.Array:
        index = size - 1 - step
        own = (
            eye[index][None] - (above[:, index, None, :] @ found)[:, 0]
        )  # rows up to this one are 0
        return found.at[:, index].set(own)

    return lax.fori_loop(0, size, row, jnp.zeros_like(blocks))
