"""Cuts masked units out of a function's parameters: smaller arrays, and the same outputs as with zeros."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.calls import is_traced
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.structured.shrinking.functions import Functions
from jaxprune.structured.shrinking.host import cut, on_host
from jaxprune.structured.shrinking.plan import Plan
from jaxprune.structured.shrinking.removal import Removal, removal
from jaxprune.types import Masks, Params

__all__ = ["Small", "shrink", "shrink_silently"]


class Small(NamedTuple):
    """A shrunk function.

    Attributes:
      params: the parameters, masked and cut.
      apply: (params, *inputs) -> outputs. It can be jitted, differentiated and mapped; for inputs of other
        shapes the function is traced again.
      plan: which indices of which axes are left; it cuts other trees like the parameters, and can be saved.
      like: another function of the same parameters -> that function on the small parameters: the network in
        training mode, for example. Outputs along the units, such as new statistics, are then as small as the
        parameters. Random numbers are drawn at full size, then cut. For one function `like` returns the same
        object each time. A function that ties removed units to something that stays is refused when it is
        called.
    """

    params: Params
    apply: Callable[..., Any]
    plan: Plan
    like: Callable[[Callable[..., Any]], Callable[..., Any]]

    def shrink_state(self, opt_state: Any) -> Any:
        """Returns what is left of an optimizer's state: its moments are cut like their parameters.

        Args:
          opt_state: of any Optax optimizer whose moments have the shapes of the parameters.

        Raises:
          ValueError: if the state has factored moments, which cannot be cut (see `Plan.apply`).
        """
        return self.plan.apply(opt_state)


def shrink(graph: Graph, params: Params, masks: Masks) -> Small:
    """Removes the units and blocks that are masked whole, and returns the small function.

    A unit is removed if the masks remove all of its slices. A kernel without a mask keeps all its units; a
    bias or statistic without a mask does not keep a unit alive. A block (`structured.blocks`) is left out if
    all of its kernels are masked whole; parameters that it alone reads are then empty. Other masked weights
    stay as zeros. If masks empty a unit on one side only, as gates on the inputs of a layer do, pass them
    through `jaxprune.metrics.effective` first.

    The small function has the outputs of the whole one with zeros in place of removed units: constants such
    as the number of channels in a mean stay those of the whole, and sums over units (in a variance, for
    example) are given what zeros would have added. For groups that are not exact (`Group.exact`) this need
    not hold; there is a warning if masks remove units of such a group.

    Args:
      graph: of the function, from `trace`.
      params: tree of arrays, with the structure and shapes that were traced.
      masks: bool arrays, `None` at leaves without a mask: of `structured.prune`, or any others that are
        constant along the graph's groups.

    Returns:
      The small function and its parameters: masked, then cut.

    Raises:
      ValueError: if no unit and no block is masked whole, or the masks leave nothing of a group.

    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.array([[1.0, 2.0]]), "out": jnp.array([[3.0], [5.0]])}
    >>> graph = trace(fn, params, jnp.ones((1, 1)))
    >>> masks = {"in": jnp.array([[True, False]]), "out": jnp.array([[True], [False]])}
    >>> small = shrink(graph, params, masks)
    >>> small.params["out"].tolist(), small.apply(small.params, jnp.ones((1, 1))).tolist()
    ([[3.0]], [[3.0]])
    """
    check_graph("structured.shrink", graph, params)
    small, removed = _shrink(graph, params, masks)
    for group in graph.groups:
        if not group.exact and removed.classes[group.units].any():
            warnings.warn(
                f"structured.shrink: the group {group.name!r} is not exact: {group.reason}; the small "
                "function may differ from the masked one.",
                stacklevel=2,
            )
    return small


def shrink_silently(graph: Graph, params: Params, masks: Masks) -> Small:
    """Returns the small function as `shrink` does, without a warning that a group is not exact."""
    return _shrink(graph, params, masks)[0]


def _shrink(graph: Graph, params: Params, masks: Masks) -> tuple[Small, Removal]:
    """Returns the small function, and what was removed."""
    graph.check(params)
    masks_lib.validate(params, masks)
    removed = removal(graph, masks)
    if not (removed.classes.any() or removed.blocks) and not all(
        mask.all() for mask in jax.tree.leaves(masks_lib.unpack(masks))
    ):
        raise ValueError(
            "structured.shrink: no unit is masked in all of its slices, so nothing can be removed; masks "
            f"must be constant along these groups:\n{graph.summary()}"
        )
    kept_by_leaf = [_kept_indices(axis_masks) for axis_masks in removed.kept(graph)]
    shapes = [leaf.shape for leaf in jax.tree.leaves(graph.params)]
    plan = Plan(
        dict(zip(graph.paths, shapes, strict=True)),
        {path: kept for path, kept in zip(graph.paths, kept_by_leaf, strict=True) if kept},
    )
    mask_by_leaf = masks_lib.beside(params, masks_lib.unpack(masks))
    small_leaves = [
        _mask_and_cut(leaf, mask, kept)
        for leaf, mask, kept in zip(
            jax.tree.leaves(params), mask_by_leaf, kept_by_leaf, strict=True
        )
    ]
    functions = Functions(graph, removed)
    small_params = jax.tree.structure(params).unflatten(small_leaves)
    return Small(small_params, functions.pruned(), plan, functions.like), removed


def _kept_indices(axis_masks: list[np.ndarray]) -> dict[int, list[int]]:
    """Returns axis -> indices that are left, for the axes that lose some."""
    return {
        axis: np.flatnonzero(axis_mask).tolist()
        for axis, axis_mask in enumerate(axis_masks)
        if not axis_mask.all()
    }


def _mask_and_cut(leaf: Any, mask: Any, kept: dict[int, list[int]]) -> Any:
    """Returns what is left of a leaf, with zeros where it is masked.

    Args:
      leaf: an array.
      mask: bool array of its shape; `None`: it has none.
      kept: axis -> the indices that are left.
    """
    if mask is None:
        return cut(leaf, kept)
    if is_traced(mask):
        return jnp.where(cut(mask, kept), cut(leaf, kept), jnp.zeros((), leaf.dtype))
    host_leaf = on_host(leaf)
    small_mask = cut(np.asarray(mask), kept)
    if host_leaf is None:  # the mask is of no device, and goes where the leaf is
        small = cut(leaf, kept)
        return (
            small if small_mask.all() else jnp.where(small_mask, small, jnp.zeros((), leaf.dtype))
        )
    small = cut(host_leaf, kept)
    if not small_mask.all():
        small = np.where(small_mask, small, np.zeros((), small.dtype))
    return leaf if small is host_leaf else jax.device_put(small, leaf.sharding, may_alias=True)
