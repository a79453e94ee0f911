"""Weights that do something: those on a path of weights kept, from an input to an output."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune.types import Masks, Params

__all__ = ["effective"]

_CONSTANTS = ("bias", "mean", "beta")


def effective(apply: Callable[..., Any], params: Params, masks: Masks, *inputs: Any) -> Masks:
    r"""Returns the masks without the weights that no path from an input to an output goes through.

    A weight that feeds a unit without outputs, or comes from one without inputs, can go without changing
    more than constants; what is left is what a network without the dead units still has. Counted as by
    Vysogorets & Kempe: each kept weight becomes a positive number, biases become 0 and inputs 1, and a weight
    is effective if the sum of the outputs has a slope in it.

    The function must let positive values through: ReLU and its like, pooling, normalisation with fixed
    statistics. Numbers are scaled by the inputs of each layer, so that they stay within float32 for some
    dozens of layers.

    Args:
      apply: (params, *inputs) -> outputs.
      params: tree of arrays, for shapes and dtypes; leaves without a mask count as kept, but for biases.
      masks: bool arrays, `None` at leaves without one.
      *inputs: trees of arrays or `jax.ShapeDtypeStruct`s; the values do not matter.

    References:
      Vysogorets & Kempe, "Connectivity Matters: Neural Network Pruning Through the Lens of Effective
      Sparsity" (2023).

    >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((2, 2)), "out": jnp.ones((2, 1))}
    >>> masks = {"in": jnp.array([[True, True], [True, False]]), "out": jnp.array([[True], [False]])}
    >>> effective(apply, params, masks, jnp.ones((1, 2)))["in"]  # the second unit goes nowhere
    Array([[ True, False],
           [ True, False]], dtype=bool)
    """
    leaves, treedef = jax.tree.flatten(params)
    found = masks_lib.beside(params, masks_lib.unpack(masks))
    ones = jax.tree.map(lambda x: jnp.ones(jnp.shape(x), x.dtype), inputs)
    floats = [jnp.issubdtype(jnp.result_type(w), jnp.floating) for w in leaves]

    def conduit(name: str, w: jax.Array, mask: Any) -> jax.Array:
        if name.rsplit("/", 1)[-1] in _CONSTANTS:
            return jnp.zeros(w.shape, jnp.float32)
        inputs = max(math.prod(w.shape[:-1]), 1)
        return (jnp.ones(w.shape) if mask is None else mask.astype(jnp.float32)) / inputs

    def total(weights: list[jax.Array]) -> jax.Array:
        new = iter(weights)
        whole = [next(new).astype(w.dtype) if f else w for w, f in zip(leaves, floats, strict=True)]
        outputs = jax.tree.leaves(apply(treedef.unflatten(whole), *ones))
        return sum((y.astype(jnp.float32).sum() for y in outputs), jnp.zeros(()))

    trio = zip(masks_lib.paths(params), leaves, found, floats, strict=True)
    slopes = iter(jax.grad(total)([conduit(n, w, m) for n, w, m, f in trio if f]))
    slopes = [next(slopes) if f else None for f in floats]
    kept = [None if m is None else m & (s != 0) for m, s in zip(found, slopes, strict=True)]
    return treedef.unflatten(kept)
