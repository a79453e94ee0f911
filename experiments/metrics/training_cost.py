"""What training costs where zeros are skipped, from how dense its masks were."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from jaxprune.method import memories_of
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
    read = [_read(part, steps) for part in parts]
    owners = [None] * len(jax.tree.leaves(density)) if method is None else method.owners(density)

    def share(d: Any, owner: int | None) -> float:
        d, reach = float(d), 1.0
        read_in = 0.0 if owner is None else read[owner]
        if owner is not None and parts[owner].straight_through:
            reach, read_in = 1 - (parts[owner].backward.sparsity or 0.0), 1.0
        u = 1.0 if dense else read_in
        return (2 * d + u * reach + (1 - u) * d) / 3

    leaves, treedef = jax.tree.flatten(density)
    return treedef.unflatten([share(d, owner) for d, owner in zip(leaves, owners, strict=True)])


def _read(method: jp.Method, steps: int) -> float:
    """The share of the updates in which gradients off the masks are read."""
    if not method.update.ranks_dead_units and method.update.grow_criterion is None:
        return 0.0  # what is dead stays dead, whatever its gradient
    if any(memory.reads_gradients for memory in memories_of(method).values()):
        return 1.0
    if not any(map(takes_gradients, (method.criterion, method.update.grow_criterion))):
        return 0.0
    due = lambda step: jnp.asarray(method.schedule.due(step), jnp.float32)
    return float(jnp.mean(jax.vmap(due)(jnp.arange(steps))))
