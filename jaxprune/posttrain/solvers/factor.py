"""The upper triangular factor of a damped Gram matrix, and inverses of its diagonal blocks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.posttrain.solvers.cholesky import upper_factor

__all__ = ["Factor", "add_damping", "damped_factor", "damping", "unit_triangular_inverses"]

_TRIES = 6
_LEAST = 1e-6  # the first damping that is tried if none was asked for and the factor is not finite


class Factor(NamedTuple):
    r"""The factor of $H = R R^\top$ with $R$ upper triangular.

    Attributes:
      upper: $R$ with each column divided by its diagonal element: a unit diagonal.
      diagonal: of $R$.
      damp: share of the mean of $H$'s diagonal that was added to it.
    """

    upper: jax.Array
    diagonal: jax.Array
    damp: jax.Array


def damped_factor(gram: jax.Array, damp: Any, inputs: int) -> Factor:
    """Returns the factor of a Gram matrix; damping is multiplied by ten while the factor is not finite.

    Args:
      gram: symmetric; rows from `inputs` on are padding.
      damp: share of the mean of its diagonal that is added to it.
      inputs: number of rows that are not padding.

    >>> singular = damped_factor(jnp.array([[1.0, 1.0], [1.0, 1.0]]), 0.0, 2)
    >>> bool(jnp.isfinite(singular.upper).all()), float(singular.damp) > 0
    (True, True)
    """

    def failed(state: Any) -> jax.Array:
        attempts, _, upper = state
        return (attempts == 0) | ((attempts <= _TRIES) & ~jnp.isfinite(jnp.diagonal(upper)).all())

    def attempt(state: Any) -> Any:
        attempts, last_damp, _ = state
        next_damp = jnp.where(attempts == 0, last_damp, jnp.maximum(10 * last_damp, _LEAST))
        return attempts + 1, next_damp, upper_factor(gram, damping(gram, next_damp, inputs))

    initial_state = (0, jnp.asarray(damp, gram.dtype), gram)
    _, used_damp, upper = lax.while_loop(failed, attempt, initial_state)
    diagonal = jnp.diagonal(upper)
    return Factor(upper / diagonal[None], diagonal, used_damp)


def damping(gram: jax.Array, damp: Any, inputs: int) -> jax.Array:
    """Returns what damping adds to the diagonal of a Gram matrix: a share of the diagonal's mean.

    A mean of zero counts as 1. Rows from `inputs` on are padding and get the mean itself, so that they do not
    make the matrix singular.

    Args:
      gram: symmetric.
      damp: the share.
      inputs: number of rows that are not padding.
    """
    diagonal = jnp.diagonal(gram)
    is_real = jnp.arange(len(gram)) < inputs
    diagonal_mean = jnp.sum(jnp.where(is_real, diagonal, 0)) / inputs
    diagonal_mean = jnp.where(diagonal_mean > 0, diagonal_mean, 1)
    added_diagonal = jnp.where(is_real, damp * diagonal_mean, diagonal_mean)
    added_diagonal = jnp.where(
        is_real & (diagonal + added_diagonal == 0), diagonal_mean * 1e-6, added_diagonal
    )
    return added_diagonal.astype(gram.dtype)


def add_damping(gram: jax.Array, damp: Any, inputs: int) -> jax.Array:
    """Returns the Gram matrix with `damping` on its diagonal."""
    return gram + jnp.diag(damping(gram, damp, inputs))


def unit_triangular_inverses(blocks: jax.Array) -> jax.Array:
    """Returns the inverses of upper triangular matrices with unit diagonals, `[blocks, n, n]`.

    Rows are computed from the last to the first, in all blocks at once: LAPACK would be called for each.

    >>> unit_triangular_inverses(jnp.array([[[1.0, 2.0], [0.0, 1.0]]])).tolist()
    [[[1.0, -2.0], [0.0, 1.0]]]
    """
    size = blocks.shape[-1]
    strict_upper = jnp.triu(blocks, 1)
    identity = jnp.eye(size, dtype=blocks.dtype)

    def row(step: Any, inverse: jax.Array) -> jax.Array:
        index = size - 1 - step
        # Rows of `inverse` up to this one are still 0, so the product reads those below it only.
        inverse_row = identity[index][None] - (strict_upper[:, index, None, :] @ inverse)[:, 0]
        return inverse.at[:, index].set(inverse_row)

    return lax.fori_loop(0, size, row, jnp.zeros_like(blocks))
