"""What training costs where zeros are skipped, from how dense its masks were."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from jaxprune.method import memory_rules_of
from jaxprune.signals.by_keyword import takes_gradients

__all__ = ["shares"]


def shares(method: Any, density: Any, steps: int, *, dense: bool = False) -> Any:
    r"""Returns the share of its dense training's operations that each leaf cost.

    An update multiplies three times: forward, backward to the inputs, and backward to the weights. With a
    mean density $d$ of the masks the share is $(2 d + g) / 3$, with $g = d$ where the gradients of
    removed weights are never read and $g = u + (1 - u) d$ where they are read in a share $u$ of the
    updates.

    Args:
      method: with which it was trained; `None`: masks were fixed, or there was no method.
      density: per leaf the mean density over the updates (`jaxprune.recorded`).
      steps: updates.
      dense: whether the gradients of all weights were read in every update.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020),
      appendix H.
    """
    parts = () if method is None else method.parts
    read_shares = [_read_share(part, steps) for part in parts]
    leaf_densities, treedef = jax.tree.flatten(density)
    part_indices = [None] * len(leaf_densities) if method is None else method.owners(density)

    def leaf_share(leaf_density: Any, part_index: int | None) -> float:
        d = float(leaf_density)
        part = None if part_index is None else parts[part_index]
        u = 0.0 if part_index is None else read_shares[part_index]
        if dense or (part is not None and part.straight_through):
            u = 1.0
        # A straight-through backward pass may itself be sparse: `reach` is the share it computes.
        reach = 1.0
        if part is not None and part.straight_through:
            reach = 1 - (part.backward.sparsity or 0.0)
        return (2 * d + u * reach + (1 - u) * d) / 3

    return treedef.unflatten(
        [
            leaf_share(leaf_density, part_index)
            for leaf_density, part_index in zip(leaf_densities, part_indices, strict=True)
        ]
    )


def _read_share(method: jp.Method, steps: int) -> float:
    """Returns the share of the updates in which gradients off the masks are read."""
    if not method.update.ranks_dead_units and method.update.grow_criterion is None:
        return 0.0  # what is dead stays dead, whatever its gradient
    if any(rule.reads_gradients for rule in memory_rules_of(method).values()):
        return 1.0
    if not any(map(takes_gradients, (method.criterion, method.update.grow_criterion))):
        return 0.0

    def is_due(step: jax.Array) -> jax.Array:
        return jnp.asarray(method.schedule.due(step), jnp.float32)

    return float(jnp.mean(jax.vmap(is_due)(jnp.arange(steps))))
