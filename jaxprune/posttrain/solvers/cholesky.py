"""Triangular factors of large matrices, mostly by matrix products."""

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["upper_factor"]

# Columns whose factor is LAPACK's: smaller blocks cost time to compile, and gain nothing.
_BLOCK = 512


def upper_factor(matrix: jax.Array, added_diagonal: jax.Array, *, block: int = _BLOCK) -> jax.Array:
    r"""Returns the upper triangular $R$ with $A + \mathrm{diag}(d) = R R^\top$; NaN where there is none.

    Columns are factorised in blocks, from right to left: the Cholesky factorisation with rows and columns in
    reverse order. One matrix product subtracts from a block what the blocks before it account for; then only
    its own part on the diagonal is left to LAPACK. On a CPU a product of this size does three times as many
    operations per second as LAPACK's factorisation.

    Where there is no such factor, the diagonal of the result has a NaN.

    Args:
      matrix: $A$, symmetric; only its upper triangle is read.
      added_diagonal: $d$, by row.
      block: columns of a block; a matrix of fewer than four blocks is LAPACK's alone.

    >>> matrix = jnp.array([[2.0, 1, 0, 0], [1, 2, 1, 0], [0, 1, 2, 2], [0, 0, 2, 3]])
    >>> upper_factor(matrix, jnp.array([0.0, 0, 0, 1]), block=1).astype(int).tolist()
    [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 2]]
    """
    size = len(matrix)
    if size < 4 * block:
        return _by_lapack(matrix, added_diagonal)
    upper = jnp.zeros_like(matrix)
    for end in range(size, 0, -block):
        begin = max(end - block, 0)
        columns = matrix[:end, begin:end]
        if end < size:
            columns = columns - upper[:end, end:] @ upper[begin:end, end:].T
        diagonal_factor = _by_lapack(columns[begin:], added_diagonal[begin:end])
        above = lax.linalg.triangular_solve(
            diagonal_factor, columns[:begin], lower=False, transpose_a=True
        )
        upper = lax.dynamic_update_slice(upper, above, (0, begin))
        upper = lax.dynamic_update_slice(upper, diagonal_factor, (begin, begin))
    return upper


def _by_lapack(matrix: jax.Array, added_diagonal: jax.Array) -> jax.Array:
    reversed_matrix = (matrix + jnp.diag(added_diagonal))[::-1, ::-1]
    return jnp.linalg.cholesky(reversed_matrix, symmetrize_input=False)[::-1, ::-1]
