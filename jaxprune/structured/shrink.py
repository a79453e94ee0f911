"""The function on what is left of its parameters: smaller arrays, the same outputs as with zeros."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.coupling import Coupled
from jaxprune.structured.depth import blocks, left_out, path_without, without_blocks
from jaxprune.structured.graph import Graph, trace
from jaxprune.structured.host import on_host
from jaxprune.structured.plan import Plan
from jaxprune.structured.removal import Removal, removal, removed_axes
from jaxprune.structured.replay import Path, replayed
from jaxprune.types import Masks, Params

__all__ = ["Small", "shrink", "verify"]


class Small(NamedTuple):
    """A shrunk function.

    Attributes:
      params: what is left of the parameters.
      apply: (params, *inputs) -> outputs. It can be jitted, differentiated and mapped; for inputs of other
        shapes the function is traced again.
      plan: which indices of which axes are left, for other trees like the parameters, and for a file.
    """

    params: Params
    apply: Callable[..., Any]
    plan: Plan

    def shrink_state(self, opt_state: Any) -> Any:
        """What is left of an optimizer's state: moments follow their parameters, factored ones cannot."""
        return self.plan.apply(opt_state)


def shrink(graph: Graph, params: Params, masks: Masks) -> Small:
    """Removes what the masks remove whole, and keeps the rest.

    A unit goes if all of its slices are masked; a kernel without a mask keeps all it has, a bias or statistic
    without one keeps nothing alive. A block (`structured.blocks`) is left out if all of its kernels are
    masked whole, and of what it alone reads no entries are left. Other zeros stay zeros. Of masks that empty
    a unit on one side only, such as gates on the inputs of a layer, take `jaxprune.metrics.effective` first.

    The small function gives what the whole one gives with zeros in place of what is gone, as long as zeros
    let nothing through: constants such as the number of channels in a mean stay those of the whole. Where
    zeros do let something through (a softmax or a maximum over the units themselves, a layer along another
    axis that adds a bias to each) the two differ; `verify` tells.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      masks: bool arrays, `None` at leaves without a mask: of `structured.prune`, or any others that are
        constant along the graph's groups.

    Returns:
      The small function and its parameters: masked, then cut.

    Raises:
      ValueError: if nothing of it can be removed whole.
    """
    graph.check(params)
    masks_lib.validate(masks, params)
    gone = removal(graph, masks)
    if not (gone.classes.any() or gone.blocks) and not all(
        m.all() for m in jax.tree.leaves(masks_lib.unpack(masks))
    ):
        raise ValueError(
            "structured.shrink: no unit is masked in all of its slices, so nothing can be removed; masks "
            f"must be constant along these groups:\n{graph.summary()}"
        )
    left = gone.kept(graph)
    leaves = jax.tree.leaves(graph.params)
    shapes = {path: x.shape for path, x in zip(graph.paths, leaves, strict=True)}
    cut = lambda own: {i: np.flatnonzero(a).tolist() for i, a in enumerate(own) if not a.all()}
    kept = {path: axes for path, own in zip(graph.paths, left, strict=True) if (axes := cut(own))}
    plan = Plan(shapes, kept)
    beside = masks_lib.beside(params, masks_lib.unpack(masks))
    masked = [_masked(x, m) for x, m in zip(jax.tree.leaves(params), beside, strict=True)]
    small = plan.apply(jax.tree.structure(params).unflatten(masked))
    return Small(small, _replay(graph, left, gone), plan)


def _masked(x: Any, mask: Any) -> Any:
    if mask is None:
        return x
    if (whole := on_host(x)) is not None:
        zero = np.zeros((), whole.dtype)
        return jax.device_put(np.where(np.asarray(mask), whole, zero), x.sharding)
    return jnp.where(mask, x, jnp.zeros((), x.dtype))


def verify(graph: Graph, params: Params, *inputs: Any, seed: int = 0) -> dict[str, float]:
    """Removes half of each group alone, and each block, and compares with zeros in their place.

    Args:
      graph: of the function.
      params: tree of arrays.
      *inputs: of the function.
      seed: of the choice of units.

    Returns:
      By group or block, the largest difference of the outputs over their largest size: rounding where it is
      exact. Removing others is pruning like any other, but not the same as masking them.

    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    >>> verify(trace(fn, params, jnp.ones((1, 3))), params, jnp.ones((1, 3)))
    {'in[1]': 0.0}
    """
    rng, found, whole = np.random.default_rng(seed), {}, jax.jit(graph.fn)

    def error(masks: Masks) -> float:
        small = shrink(graph, params, masks)
        ours = jax.tree.leaves(jax.jit(small.apply)(small.params, *inputs))
        theirs = jax.tree.leaves(whole(masks_lib.apply(params, masks), *inputs))
        pairs = [
            (np.asarray(a).astype(float), np.asarray(b).astype(float))
            for a, b in zip(ours, theirs, strict=True)
        ]
        scale = max(float(np.abs(b).max(initial=0)) for _, b in pairs)
        return max(float(np.abs(a - b).max(initial=0)) for a, b in pairs) / max(scale, 1e-30)

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


def _replay(graph: Graph, left: list[list[np.ndarray]], gone: Removal) -> Callable[..., Any]:
    """The function of what is left of the parameters."""
    known: dict[Any, tuple[Graph, np.ndarray, Path]] = {}
    paths = {path for block in gone.blocks for path in block.paths}

    def solved(inputs: Any) -> tuple[Graph, np.ndarray, Path]:
        leaves, treedef = jax.tree.flatten(inputs)
        key = (treedef, tuple(map(jax.typeof, leaves)), jax.sharding.get_abstract_mesh())
        if key not in known:
            own = trace(graph.fn, graph.params, *inputs)
            alive = own.solution.kept(removed_axes(own, left, paths))
            known[key] = (own, alive, path_without(own, left_out(own, paths)))
        return known[key]

    def apply(params: Params, *inputs: Any) -> Any:
        own, alive, path = solved(inputs)
        given = [*jax.tree.leaves(params), *jax.tree.leaves(inputs)]
        kept = lambda axis: alive[own.solution.of[axis]]
        return own.outputs.unflatten(replayed(own.program, given, own.tape, kept, path))

    return apply
