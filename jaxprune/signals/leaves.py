"""The leaves of a tree that a signal is about: found, taken out and put back."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.precision import at_least_float32
from jaxprune.types import Params

__all__ = ["floating", "in_one_place", "put", "spread", "take", "wide"]


def floating(params: Params) -> tuple[bool, ...]:
    """Per leaf, whether it can be differentiated: real floating-point ones can.

    >>> floating({"n": jnp.arange(2), "w": jnp.ones(2)})
    (False, True)
    """
    return tuple(
        jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(params)
    )


def take(params: Params, chosen: Sequence[bool]) -> list[jax.Array]:
    """The chosen leaves, in order."""
    pairs = zip(jax.tree.leaves(params), chosen, strict=True)
    return [jnp.asarray(leaf) for leaf, mine in pairs if mine]


def put(params: Params, chosen: Sequence[bool], values: Sequence[Any]) -> Params:
    """The tree with `values` for its chosen leaves; the others stay.

    >>> put({"n": 1, "w": 2.0}, (False, True), [3.0])
    {'n': 1, 'w': 3.0}
    """
    return spread(params, chosen, values, lambda leaf: leaf)


def spread(
    params: Params,
    chosen: Sequence[bool],
    values: Sequence[Any],
    elsewhere: Callable[[Any], Any] = lambda leaf: jnp.zeros(jnp.shape(leaf), jnp.float32),
) -> Any:
    """A tree like `params`: `values` at its chosen leaves, what `elsewhere` makes of the others.

    >>> spread({"n": 1, "w": 2.0}, (False, True), [3.0], lambda leaf: None)
    {'n': None, 'w': 3.0}
    """
    leaves, treedef = jax.tree.flatten(params)
    new = iter(values)
    pairs = zip(leaves, chosen, strict=True)
    return treedef.unflatten([next(new) if mine else elsewhere(leaf) for leaf, mine in pairs])


def in_one_place(x: jax.Array, axes: int) -> jax.Array:
    """The array with its first axes on every device of an explicit mesh, so that they can be reshaped."""
    sharding = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes:
        return x
    spec = (*(None,) * min(axes, x.ndim), *sharding.spec[axes:])
    return jax.sharding.reshard(x, jax.sharding.PartitionSpec(*spec))


def wide(x: jax.Array) -> jax.Array:
    """The array in float32, or as it is if that is wider."""
    return x.astype(at_least_float32(x.dtype))
