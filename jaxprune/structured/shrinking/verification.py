"""Compares the small function with the masked one, group by group, by running both."""

from typing import Any

import jax
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.structured.graph.blocks import blocks, without_blocks
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.structured.shrinking.comparison import relative_error
from jaxprune.structured.shrinking.shrink import shrink_silently
from jaxprune.types import Masks, Params
from jaxprune.units.coupling import Coupled

__all__ = ["verify"]


def verify(graph: Graph, params: Params, *inputs: Any, seed: int = 0) -> dict[str, float]:
    """Removes half the units of each group alone, and each block, and compares with zeros in their place.

    Args:
      graph: of the function, from `trace`.
      params: tree of arrays, with the structure and shapes that were traced.
      *inputs: of the function.
      seed: of NumPy's generator that chooses the units.

    Returns:
      By name of the group or block, the largest difference of an output relative to its largest number:
      rounding where the group is exact, infinite where there is NaN. Where it is more, removing these units
      is pruning like any other, but not the same as masking them.

    >>> import jax.numpy as jnp
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    >>> verify(trace(fn, params, jnp.ones((1, 3))), params, jnp.ones((1, 3)))
    {'in[1]': 0.0}
    """
    check_graph("structured.verify", graph, params)
    rng = np.random.default_rng(seed)
    errors = {}
    dense = jax.jit(graph.fn)

    def error_of(masks: Masks) -> float:
        small = shrink_silently(graph, params, masks)
        small_outputs = jax.jit(small.apply)(small.params, *inputs)
        return relative_error(small_outputs, dense(masks_lib.apply(params, masks), *inputs))

    for group in graph.groups:
        if group.size < 2:
            continue
        removed_units = rng.choice(group.size, group.size // 2, replace=False)
        removed_mask = np.isin(np.arange(group.size), removed_units)
        mask_by_path = Coupled((group,)).masks([~removed_mask])
        leaves = [mask_by_path.get(path) for path in graph.paths]
        errors[group.name] = error_of(jax.tree.structure(params).unflatten(leaves))
    for block in blocks(graph):
        errors[block.name] = error_of(without_blocks(graph, [block.name]))
    return errors
