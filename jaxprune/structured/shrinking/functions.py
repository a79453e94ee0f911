"""Runs functions of whole parameters on what is left of them."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.structured.graph.blocks import empty_blocks, path_without
from jaxprune.structured.graph.exactness import responsible
from jaxprune.structured.graph.graph import Graph, trace_without_exactness
from jaxprune.structured.graph.labels import AxisLabels
from jaxprune.structured.graph.replay import Path, replay
from jaxprune.structured.graph.unread import unread_parameters
from jaxprune.structured.shrinking.removal import Removal, removed_classes

__all__ = ["Functions"]

Function = Callable[..., Any]


class Functions:
    """Functions of the same parameters, each traced once for inputs of one structure.

    Args:
      graph: of the function that was pruned.
      removal: what is removed.
    """

    def __init__(self, graph: Graph, removal: Removal) -> None:
        self._graph = graph
        self._left_masks = removal.kept(graph)
        self._block_paths = {path for block in removal.blocks for path in block.paths}
        self._shapes = [
            tuple(int(mask.sum()) for mask in axis_masks) for axis_masks in self._left_masks
        ]
        self._small_functions: dict[Function, Function] = {}

    def pruned(self) -> Function:
        """Returns the small version of the function that was pruned."""
        return self._small_version(self._graph.fn, other=False)

    def like(self, fn: Function) -> Function:
        """Returns the small version of another function; for one function it is the same each time."""
        if fn not in self._small_functions:
            self._small_functions[fn] = self._small_version(fn, other=True)
        return self._small_functions[fn]

    def _small_version(self, fn: Function, *, other: bool) -> Function:
        """Returns a function of what is left of the parameters; `other`: not the one that was pruned."""
        traced: dict[Any, tuple[Graph, np.ndarray, Path]] = {}

        def prepare(inputs: Any) -> tuple[Graph, np.ndarray, Path]:
            leaves, treedef = jax.tree.flatten(inputs)
            key = (treedef, tuple(map(jax.typeof, leaves)), jax.sharding.get_abstract_mesh())
            if key not in traced:
                graph = trace_without_exactness(
                    fn, self._graph.params, *inputs, pins_outputs=not other
                )
                removed_mask = removed_classes(
                    graph, self._left_masks, self._block_paths, refuses=not other
                )
                path = path_without(graph, empty_blocks(graph, self._block_paths))
                if other:
                    self._check_needs(graph, removed_mask, path)
                traced[key] = (graph, removed_mask, path)
            return traced[key]

        def apply(params: Any, *inputs: Any) -> Any:
            leaves = self._checked_leaves(params)
            graph, removed_mask, path = prepare(inputs)
            alive = graph.solution.kept(removed_mask)
            groups_of_reason: dict[str, list[str]] = {}

            def leak(reason: str, axes: AxisLabels) -> None:
                groups = responsible(graph.groups, axes, graph.solution, removed_mask)
                groups_of_reason.setdefault(reason, []).extend(
                    graph.groups[group_index].name for group_index in groups
                )

            def kept(axis: np.ndarray) -> np.ndarray:
                return alive[graph.solution.class_of[axis]]

            operands = [*leaves, *jax.tree.leaves(inputs)]
            outputs = replay(
                graph.program, operands, graph.tape, kept, path, leak if other else None
            )
            for reason, names in groups_of_reason.items():
                warnings.warn(
                    f"structured: in the other function {names[0]!r} is not exact: {reason}.",
                    stacklevel=2,
                )
            return graph.outputs.unflatten(outputs)

        return apply

    def _checked_leaves(self, params: Any) -> list[Any]:
        """Returns the leaves of the small parameters.

        Raises:
          ValueError: if there are too few or too many, or one has another shape.
        """
        leaves = jax.tree.leaves(params)
        if len(leaves) != len(self._shapes):
            raise ValueError(
                f"structured: the small function takes parameters of {len(self._shapes)} leaves, and got "
                f"{len(leaves)}; give small.params, or what small.plan.apply leaves of a tree."
            )
        for path, leaf, shape in zip(self._graph.paths, leaves, self._shapes, strict=True):
            if jnp.shape(leaf) != shape:
                raise ValueError(
                    f"structured: {path!r} has the shape {jnp.shape(leaf)}, and {shape} is left of it; give "
                    "small.params, or what small.plan.apply leaves of a tree."
                )
        return leaves

    def _check_needs(self, graph: Graph, removed: np.ndarray, path: Path) -> None:
        """Refuses another function that needs what was removed."""
        unread_paths = {
            graph.paths[leaf] for leaf in unread_parameters(graph.tape, len(graph.paths))
        }
        pairs = zip(graph.paths, graph.kept(removed), self._left_masks, strict=True)
        for name, axis_masks, left_masks in pairs:
            if name in self._block_paths or name in unread_paths:
                continue
            for axis, (mask, left_mask) in enumerate(zip(axis_masks, left_masks, strict=True)):
                if not np.array_equal(mask, left_mask):
                    raise ValueError(self._tie_message(graph, name, axis))
        value_index_of = dict(zip(graph.paths, graph.tape.inputs, strict=False))
        read_values = {
            value_index
            for step in graph.tape.steps
            if step.writes and step.writes[0] not in path.idle
            for value_index in _values_read(step.reads, path.passed.get(step.writes[0]))
        }
        for name in sorted(self._block_paths):
            if value_index_of[name] in read_values:
                raise ValueError(
                    f"structured: the other function reads {name!r}, of which nothing is left, beside the "
                    "block that was left out; give one that does not, or keep the block."
                )

    def _tie_message(self, graph: Graph, name: str, axis: int) -> str:
        without_rule = (
            f", {', '.join(sorted(graph.unknown))} without a rule" if graph.unknown else ""
        )
        return (
            f"structured: the other function ties units of {name!r} that were removed along axis {axis} to "
            f"something that stays (an input{without_rule}, or what is pinned otherwise), so it cannot run "
            f"without them; leave the group out (exclude={name!r}), or trace and prune that function."
        )


def _values_read(reads: Sequence[int | None], passed: int | None) -> Sequence[int | None]:
    """Returns what an equation reads: all, or the one input that is taken for its output."""
    return reads if passed is None else (reads[passed],)
