"""Functions of whole parameters, run on what is left of them."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.structured.depth import left_out, path_without
from jaxprune.structured.exactness import responsible
from jaxprune.structured.graph import Graph, followed_through
from jaxprune.structured.labels import Axes
from jaxprune.structured.removal import Removal, removed_classes
from jaxprune.structured.replay import Path, replay
from jaxprune.structured.unread import unread

__all__ = ["Functions"]

Function = Callable[..., Any]


class Functions:
    """Functions of the same parameters, each traced once for inputs of one structure.

    Args:
      graph: of the function that was pruned.
      gone: what is removed.
    """

    def __init__(self, graph: Graph, gone: Removal) -> None:
        self._graph = graph
        self._left = gone.kept(graph)
        self._blocks = {path for block in gone.blocks for path in block.paths}
        kept = zip(jax.tree.leaves(graph.params), self._left, strict=True)
        self._shapes = [tuple(int(a.sum()) for a in own) for _, own in kept]
        self._known: dict[Function, Function] = {}

    def pruned(self) -> Function:
        """The function that was pruned."""
        return self._on_what_is_left(self._graph.fn, other=False)

    def like(self, fn: Function) -> Function:
        """Another function of the same parameters; for one function it is the same each time."""
        if fn not in self._known:
            self._known[fn] = self._on_what_is_left(fn, other=True)
        return self._known[fn]

    def _on_what_is_left(self, fn: Function, *, other: bool) -> Function:
        traced: dict[Any, tuple[Graph, np.ndarray, Path]] = {}

        def prepared(inputs: Any) -> tuple[Graph, np.ndarray, Path]:
            leaves, treedef = jax.tree.flatten(inputs)
            key = (treedef, tuple(map(jax.typeof, leaves)), jax.sharding.get_abstract_mesh())
            if key not in traced:
                own = followed_through(fn, self._graph.params, *inputs, pins_outputs=not other)
                removed = removed_classes(own, self._left, self._blocks, refuses=not other)
                path = path_without(own, left_out(own, self._blocks))
                if other:
                    self._check(own, removed, path)
                traced[key] = (own, removed, path)
            return traced[key]

        def apply(params: Any, *inputs: Any) -> Any:
            leaves = self._checked(params)
            own, removed, path = prepared(inputs)
            alive = own.solution.kept(removed)
            seen: dict[str, list[str]] = {}

            def leak(reason: str, axes: Axes) -> None:
                groups = responsible(own.groups, axes, own.solution, removed)
                seen.setdefault(reason, []).extend(own.groups[i].name for i in groups)

            kept = lambda axis: alive[own.solution.of[axis]]
            given = [*leaves, *jax.tree.leaves(inputs)]
            found = replay(own.program, given, own.tape, kept, path, leak if other else None)
            for reason, names in seen.items():
                warnings.warn(
                    f"structured: in the other function {names[0]!r} is not exact: {reason}.",
                    stacklevel=2,
                )
            return own.outputs.unflatten(found)

        return apply

    def _checked(self, params: Any) -> list[Any]:
        """The leaves of the small parameters."""
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

    def _check(self, own: Graph, removed: np.ndarray, path: Path) -> None:
        """Refuses another function that needs what was removed."""
        idle = {own.paths[leaf] for leaf in unread(own.tape, len(own.paths))}
        pairs = zip(own.paths, own.kept(removed), self._left, strict=True)
        for name, there, left in pairs:
            if name in self._blocks or name in idle:
                continue
            for axis, (a, b) in enumerate(zip(there, left, strict=True)):
                if not np.array_equal(a, b):
                    raise ValueError(self._tied(own, name, axis))
        numbers = dict(zip(own.paths, own.tape.inputs, strict=False))
        used = {
            number
            for step in own.tape.steps
            if step.writes and step.writes[0] not in path.idle
            for number in _read(step.reads, path.passed.get(step.writes[0]))
        }
        for name in sorted(self._blocks):
            if numbers[name] in used:
                raise ValueError(
                    f"structured: the other function reads {name!r}, of which nothing is left, beside the "
                    "block that was left out; give one that does not, or keep the block."
                )

    def _tied(self, own: Graph, name: str, axis: int) -> str:
        missing = f", {', '.join(sorted(own.unknown))} without a rule" if own.unknown else ""
        return (
            f"structured: the other function ties units of {name!r} that were removed along axis {axis} to "
            f"something that stays (an input{missing}, or what is pinned otherwise), so it cannot run "
            f"without them; leave the group out (exclude={name!r}), or trace and prune that function."
        )


def _read(reads: Sequence[int | None], passed: int | None) -> Sequence[int | None]:
    return reads if passed is None else (reads[passed],)
