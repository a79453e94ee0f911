"""The blocks of an inverse Fisher, compared with the leaves whose weights they are of."""

import jax
import jax.numpy as jnp

from jaxprune.trees import paths
from jaxprune.trees.alike import entries_beside, shape_of
from jaxprune.types import Params
from jaxprune.wording import counted

__all__ = ["check_blocks"]


def check_blocks(who: str, params: Params, inverse_fisher: Params) -> None:
    """Raises `ValueError` if the blocks of a leaf are not as many as its weights fill.

    Args:
      who: the function that was called.
      params: tree of arrays.
      inverse_fisher: arrays [blocks, block, block], `None` at leaves that have none.
    """
    remedy = "give what jaxprune.signals.inverse_fisher returns for these parameters"

    def refusal(differ: str) -> str:
        return f"{who}: inverse_fisher is another tree than the parameters ({differ}); {remedy}."

    inverses = entries_beside(params, inverse_fisher, refusal)
    for path, leaf, inverse in zip(paths(params), jax.tree.leaves(params), inverses, strict=True):
        if inverse is None:
            continue
        shape = shape_of(inverse) or ()
        blocks, block = (*shape, 0, 0)[:2]
        if shape != (blocks, block, block) or not 0 <= blocks * block - jnp.size(leaf) < block:
            found = (
                f"{counted(blocks, 'block')} of {block}"
                if len(shape) == 3
                else f"the shape {shape}"
            )
            raise ValueError(
                f"{who}: {path!r}, a leaf of {jnp.size(leaf)} weights, has an inverse of {found}; {remedy}."
            )
