"""The function on what is left of its parameters: smaller arrays, the same outputs as with zeros."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune import masks as masks_lib
from jaxprune.structured.functions import Functions
from jaxprune.structured.given import check_graph
from jaxprune.structured.graph import Graph
from jaxprune.structured.host import cut, on_host
from jaxprune.structured.plan import Plan
from jaxprune.structured.removal import Removal, removal
from jaxprune.types import Masks, Params

__all__ = ["Small", "shrink", "shrink_silently"]


class Small(NamedTuple):
    """A shrunk function.

    Attributes:
      params: what is left of the parameters.
      apply: (params, *inputs) -> outputs. It can be jitted, differentiated and mapped; for inputs of other
        shapes the function is traced again.
      plan: which indices of which axes are left, for other trees like the parameters, and for a file.
      like: another function of the same parameters -> the same on what is left of them. The network in
        training mode, say, that returns new statistics: what runs along units comes out as small as they
        are. Random numbers are drawn whole, then cut. For one function it is the same each time. One that
        ties removed units to something that stays is refused when it is called.
    """

    params: Params
    apply: Callable[..., Any]
    plan: Plan
    like: Callable[[Callable[..., Any]], Callable[..., Any]]

    def shrink_state(self, opt_state: Any) -> Any:
        """What is left of an optimizer's state: moments follow their parameters, factored ones cannot."""
        return self.plan.apply(opt_state)


def shrink(graph: Graph, params: Params, masks: Masks) -> Small:
    """Removes what the masks remove whole, and keeps the rest.

    A unit goes if all of its slices are masked; a kernel without a mask keeps all it has, a bias or statistic
    without one keeps nothing alive. A block (`structured.blocks`) is left out if all of its kernels are
    masked whole, and of what it alone reads no entries are left. Other zeros stay zeros. Of masks that empty
    a unit on one side only, such as gates on the inputs of a layer, take `jaxprune.metrics.effective` first.

    The small function gives what the whole one gives with zeros in place of what is gone: constants such as
    the number of channels in a mean stay those of the whole, and sums over units (a variance, say) get what
    zeros would have added. Of groups that are not exact (`Group.exact`) this need not hold; where masks
    remove units of such a group there is a warning.

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
    check_graph("structured.shrink", graph, params)
    small, gone = _shrunk(graph, params, masks)
    for group in graph.groups:
        if not group.exact and gone.classes[group.units].any():
            warnings.warn(
                f"structured.shrink: the group {group.name!r} is not exact: {group.reason}; the small "
                "function may differ from the masked one.",
                stacklevel=2,
            )
    return small


def shrink_silently(graph: Graph, params: Params, masks: Masks) -> Small:
    """As `shrink`, where it is known that a group is not exact."""
    return _shrunk(graph, params, masks)[0]


def _shrunk(graph: Graph, params: Params, masks: Masks) -> tuple[Small, Removal]:
    graph.check(params)
    masks_lib.validate(params, masks)
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
    indices = lambda own: {i: np.flatnonzero(a).tolist() for i, a in enumerate(own) if not a.all()}
    all_axes = dict(zip(graph.paths, map(indices, left), strict=True))
    plan = Plan(shapes, {path: axes for path, axes in all_axes.items() if axes})
    beside = masks_lib.beside(params, masks_lib.unpack(masks))
    found = zip(jax.tree.leaves(params), beside, all_axes.values(), strict=True)
    small = jax.tree.structure(params).unflatten([_cut_and_masked(*each) for each in found])
    functions = Functions(graph, gone)
    return Small(small, functions.pruned(), plan, functions.like), gone


def _cut_and_masked(x: Any, mask: Any, kept: dict[int, list[int]]) -> Any:
    """What is left of a leaf, with zeros where its mask has some left."""
    if mask is None:
        return cut(x, kept)
    if isinstance(mask, Tracer):
        return jnp.where(cut(mask, kept), cut(x, kept), jnp.zeros((), x.dtype))
    whole, alive = on_host(x), cut(np.asarray(mask), kept)
    if whole is None:  # the mask is of no device, and goes where the leaf is
        small = cut(x, kept)
        return small if alive.all() else jnp.where(alive, small, jnp.zeros((), x.dtype))
    small = cut(whole, kept)
    if not alive.all():
        small = np.where(alive, small, np.zeros((), small.dtype))
    return x if small is whole else jax.device_put(small, x.sharding, may_alias=True)
