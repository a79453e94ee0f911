"""The mask of each leaf of an optimizer state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import masks as masks_lib
from jaxprune.transforms.line_search import evaluations
from jaxprune.transforms.mirrored_state import mirrors
from jaxprune.transforms.raveled_state import raveled_parameters
from jaxprune.types import Masks, Params

__all__ = ["masks_of_state"]


def masks_of_state(
    inner: optax.GradientTransformation, state: optax.OptState, params: Params, masks: Masks
) -> list[Any]:
    """Returns, per leaf of an optimizer's state, the mask of the parameters that it holds.

    A leaf without a mask has `None`: what it holds is of no parameter, or of one that is never pruned, or is
    a gradient that a line search keeps whole.

    Args:
      inner: the optimizer.
      state: its state.
      params: tree of arrays.
      masks: of the parameters.

    Raises:
      ValueError: if several sets of parameters may be in one vector.

    >>> params = {"w": jnp.ones((2, 2)), "x": jnp.ones(1)}
    >>> masks = {"w": jnp.eye(2, dtype=bool), "x": None}
    >>> tx = optax.flatten(optax.trace(0.9))
    >>> [mask.tolist() for mask in masks_of_state(tx, tx.init(params), params, masks)]
    [[True, False, False, True, True]]
    """
    parameter_leaves = jax.tree.leaves(params)
    leaf_masks = masks_lib.beside(params, masks)

    def mask_of_vector(candidates: set[tuple[int, ...]]) -> Any:
        masked = [c for c in candidates if any(leaf_masks[index] is not None for index in c)]
        if not masked:
            return None
        if len(candidates) > 1:
            size = sum(jnp.size(parameter_leaves[index]) for index in masked[0])
            raise ValueError(
                f"the optimizer holds {size} numbers in one vector, and {len(candidates)} sets of parameters "
                "have that many; leave optax.flatten out where weights are pruned."
            )
        parts = [
            np.ones(jnp.size(parameter_leaves[index]), bool)
            if leaf_masks[index] is None
            else jnp.ravel(masks_lib.unpack(leaf_masks[index]))
            for index in masked[0]
        ]
        return jnp.concatenate(parts)

    leaves = jax.tree.leaves(state)
    indices = mirrors(params, state)
    others = [leaf for leaf, index in zip(leaves, indices, strict=True) if index is None]
    candidates = iter(raveled_parameters(inner, params, others))
    found = [
        mask_of_vector(next(candidates)) if index is None else leaf_masks[index]
        for index in indices
    ]
    pairs = zip(found, evaluations(state), strict=True)
    return [None if is_evaluation else mask for mask, is_evaluation in pairs]
