"""The upper factor of a damped Gram matrix, and inverses of its blocks by matrix products."""

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

    def attempt(damp: jax.Array) -> jax.Array:
        backwards = damped(gram, damp, inputs)[::-1, ::-1]
        return jnp.linalg.cholesky(backwards, symmetrize_input=False)

    def failed(state: Any) -> jax.Array:
        tried, _, lower = state
        return (tried < _TRIES) & ~jnp.isfinite(lower).all()

    def again(state: Any) -> Any:
        tried, damp, _ = state
        more = jnp.maximum(10 * damp, _LEAST)
        return tried + 1, more, attempt(more)

    start = jnp.asarray(damp, gram.dtype)
    _, used, lower = lax.while_loop(failed, again, (0, start, attempt(start)))
    upper = lower[::-1, ::-1]
    diagonal = jnp.diagonal(upper)
    return Factor(upper / diagonal, diagonal, used)


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
    """Inverses of upper triangular matrices with unit diagonals, `[..., n, n]`, from small blocks to large.

    >>> inverses(jnp.array([[[1.0, 2.0], [0.0, 1.0]]])).tolist()
    [[[1.0, -2.0], [-0.0, 1.0]]]
    """
    size = blocks.shape[-1]
    width = 1 << (size - 1).bit_length()
    fill = [(0, 0)] * (blocks.ndim - 2) + [(0, width - size)] * 2
    wide = jnp.pad(blocks, fill)
    lead = blocks.shape[:-2]
    found = jnp.ones((*lead, width, 1, 1), blocks.dtype)
    step = 1
    while step < width:
        pairs = width // (2 * step)
        parts = wide.reshape(*lead, pairs, 2 * step, pairs, 2 * step)
        own = jnp.moveaxis(jnp.diagonal(parts, axis1=-4, axis2=-2), -1, -3)
        first, second = found[..., 0::2, :, :], found[..., 1::2, :, :]
        corner = -first @ own[..., :step, step:] @ second
        rows = [jnp.concatenate([first, corner], -1), jnp.concatenate([0 * corner.mT, second], -1)]
        found = jnp.concatenate(rows, -2)
        step *= 2
    return found[..., 0, :size, :size]
