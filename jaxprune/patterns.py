"""Patterns: what dies together, and who competes with whom.

A pattern turns the scores of a leaf into units and the units' fate back into a mask. Units keep the
layout of the leaf (`groups(4)` along the axis of length `n` gives `[..., n/4, 4, ...]`) instead of being
flattened into a `[contests, members]` matrix: nothing is transposed, so memory is read in order, and
nothing is reshaped across a sharded axis. `Pattern.axis` says along which axis the units compete.
"""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune import checks
from jaxprune.parts import factory
from jaxprune.types import Pattern

__all__ = ["block", "channel", "groups", "unstructured"]


@factory
def unstructured() -> Pattern:
    """Every weight stands for itself; all weights of a leaf are in one contest.

    >>> unstructured().to_groups(jnp.ones((2, 3))).shape
    (2, 3)
    """
    return Pattern(
        to_groups=lambda scores: scores,
        from_groups=lambda alive, shape: alive,
        axis=lambda ndim: None,
        check=lambda shape: None,
    )


@factory
def groups(m: int | None = None, *, axis: int = -2) -> Pattern:
    """Contests among `m` neighbouring weights along an axis (N:M sparsity).

    At sparsity 0.5 `groups(4)` is 2:4, at 0.75 it is 1:4. `groups()` takes the whole axis as one
    contest: with the default axis, the weights of each output compete among themselves, the
    comparison of Wanda (Sun, Liu, Bair & Kolter, "A Simple and Effective Pruning Approach for Large
    Language Models", 2023).

    Args:
      m: weights in a contest; `None` for the whole axis. Contests have whole survivors: at a sparsity of
        0.9, those of up to 4 weights keep none, and a leaf of such contests dies.
      axis: the contests run along this axis of each leaf. The default is the reduction axis of Flax's
        dense kernels `[inputs, outputs]` and the input axis of convolutions `[h, w, inputs, outputs]`:
        the one along which hardware wants 2:4.

    >>> groups(2).to_groups(jnp.arange(8.0).reshape(4, 2)).shape
    (2, 2, 2)
    """
    if m is not None and m < 1:
        raise ValueError(f"groups(m={m}): m must be at least 1.")

    def check(shape: tuple[int, ...]) -> str | None:
        if not -len(shape) <= axis < len(shape):
            return f"groups(axis={axis}): {{leaf}} has the shape {shape} and no such axis"
        size = shape[axis]
        if m is None or size % m == 0:
            return None
        fits = [str(d) for d in range(2, min(size, 17)) if size % d == 0][:4]
        instead = f" or use m={', '.join(fits)}" if fits else ""
        return (
            f"groups(m={m}): {{leaf}} has {size} weights along axis {axis}, not a multiple of {m}; "
            f"exclude it with prunable={instead}"
        )

    def to_groups(scores: jax.Array) -> jax.Array:
        if m is None:
            return scores
        at, shape = axis % scores.ndim, scores.shape
        spec = list(jax.typeof(scores).sharding.spec)
        return _reshape(
            scores,
            (*shape[:at], shape[at] // m, m, *shape[at + 1 :]),
            (*spec[:at], *spec[at : at + 1], None, *spec[at + 1 :]),
        )

    def from_groups(alive: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        if m is None:
            return alive
        at, spec = axis % len(shape), list(jax.typeof(alive).sharding.spec)
        return _reshape(alive, shape, (*spec[: at + 1], *spec[at + 2 :]))

    return Pattern(
        to_groups=to_groups,
        from_groups=from_groups,
        axis=lambda ndim: axis if axis < 0 else axis + (m is not None),
        check=check,
    )


def _reshape(x: jax.Array, shape: tuple[int, ...], spec: tuple) -> jax.Array:
    """Reshapes; on an explicit mesh, whose axes a reshape must be told, without moving data."""
    mesh = jax.typeof(x).sharding.mesh
    if not mesh.explicit_axes:
        return x.reshape(shape)
    return jax.lax.reshape(x, shape, out_sharding=NamedSharding(mesh, PartitionSpec(*spec)))


@factory
def block(shape: tuple[int, int]) -> Pattern:
    """Blocks of the last two axes live and die together, by the sum of their scores.

    Args:
      shape: rows and columns of a block, `(4, 2)` for 4 inputs by 2 outputs.

    >>> block((2, 1)).to_groups(jnp.arange(4.0).reshape(2, 2))
    Array([[2., 4.]], dtype=float32)
    """
    checks.check("block", shape=(shape, _SIDES))
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise ValueError(f"block({shape}): both sides must be at least 1.")

    def check(leaf: tuple[int, ...]) -> str | None:
        if len(leaf) >= 2 and leaf[-2] % rows == 0 and leaf[-1] % columns == 0:
            return None
        return (
            f"block({shape}): {{leaf}} has the shape {leaf}, whose last two axes are no multiples of "
            f"{rows} and {columns}; exclude it with prunable= or use another block"
        )

    def to_groups(scores: jax.Array) -> jax.Array:
        by_row = sum(scores[..., i::rows, :] for i in range(rows))  # slices: 6x a reshape and sum
        return sum(by_row[..., j::columns] for j in range(columns))  # type: ignore[return-value]

    def from_groups(alive: jax.Array, leaf: tuple[int, ...]) -> jax.Array:
        wide = jnp.broadcast_to(
            alive[..., :, None, :, None], (*alive.shape[:-1], rows, alive.shape[-1], columns)
        )
        return wide.reshape(leaf)

    return Pattern(to_groups, from_groups, axis=lambda ndim: None, check=check)


_SIDES = checks.Kind(
    "a pair of integers",
    lambda value: (
        isinstance(value, tuple | list) and len(value) == 2 and all(map(checks.INTEGER.fits, value))
    ),
    lambda _: "such as (4, 2), for rows and columns",
)


@factory
def channel(axis: int = -1) -> Pattern:
    """Whole slices along an axis live and die together, by the sum of their scores.

    Args:
      axis: each index of this axis is one unit. The default removes output units of dense kernels and
        filters of convolutions; -2 removes what enters from one input.

    >>> channel().to_groups(jnp.arange(4.0).reshape(2, 2))
    Array([2., 4.], dtype=float32)
    """

    def check(shape: tuple[int, ...]) -> str | None:
        if -len(shape) <= axis < len(shape):
            return None
        return f"channel(axis={axis}): {{leaf}} has the shape {shape} and no such axis"

    def from_groups(alive: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        others = [i for i in range(len(shape)) if i != axis % len(shape)]
        return jnp.broadcast_to(jnp.expand_dims(alive, others), shape)

    return Pattern(
        to_groups=lambda s: s.sum(tuple(i for i in range(s.ndim) if i != axis % s.ndim)),
        from_groups=from_groups,
        axis=lambda ndim: None,
        check=check,
    )
