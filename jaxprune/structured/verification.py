"""Whether the small function gives what the masked one gives, group by group, by running both."""

from typing import Any

import jax
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.coupling import Coupled
from jaxprune.structured.comparison import relative_error
from jaxprune.structured.depth import blocks, without_blocks
from jaxprune.structured.given import check_graph
from jaxprune.structured.graph import Graph
from jaxprune.structured.shrink import shrink_silently
from jaxprune.types import Masks, Params

__all__ = ["verify"]


def verify(graph: Graph, params: Params, *inputs: Any, seed: int = 0) -> dict[str, float]:
    """Removes half of each group alone, and each block, and compares with zeros in their place.

    Args:
      graph: of the function.
      params: tree of arrays.
      *inputs: of the function.
      seed: of the choice of units.

    Returns:
      By group or block, the largest difference of an output over its own largest size, rounding where it is
      exact; infinite where there is NaN. Removing others is pruning like any other, but not the same as
      masking them.

    >>> import jax.numpy as jnp
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    >>> verify(trace(fn, params, jnp.ones((1, 3))), params, jnp.ones((1, 3)))
    {'in[1]': 0.0}
    """
    check_graph("structured.verify", graph, params)
    rng, found, whole = np.random.default_rng(seed), {}, jax.jit(graph.fn)

    def error(masks: Masks) -> float:
        small = shrink_silently(graph, params, masks)
        ours = jax.jit(small.apply)(small.params, *inputs)
        return relative_error(ours, whole(masks_lib.apply(params, masks), *inputs))

    for group in graph.groups:
        if group.size < 2:
            continue
        chosen = np.isin(
            np.arange(group.size), rng.choice(group.size, group.size // 2, replace=False)
        )
        by_path = Coupled((group,)).masks([~chosen])
        leaves = [by_path.get(path) for path in graph.paths]
        found[group.name] = error(jax.tree.structure(params).unflatten(leaves))
    for block in blocks(graph):
        found[block.name] = error(without_blocks(graph, [block.name]))
    return found
