"""Who competes with whom in a tree: the units of each leaf, or coupled units that run through several."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune import selection
from jaxprune.coupling import AnyPattern, Coupled
from jaxprune.precision import at_least_float32
from jaxprune.types import AnyAllocation, Axes, Keep, Masks, Params, Pattern, Sparsity, Units

__all__ = ["Contests", "contests"]


class Contests(NamedTuple):
    """A tree as lists of contests: one per leaf with a mask, or one per group.

    Attributes:
      names: of the leaves, or groups.
      alive: which units live.
      scored: numbers of the leaves of which a criterion must know something.
      units: scores by leaf -> the contestants.
      allocated: (allocation, contestants, sparsity) -> how many of them are kept.
      masks: (units that live, contestants) -> masks by leaf, `None` where there is none.
    """

    names: list[str]
    alive: list[jax.Array]
    scored: list[int]
    units: Callable[[Sequence[Any]], list[Units]]
    allocated: Callable[[AnyAllocation, list[Units], Sparsity], list[Keep]]
    masks: Callable[[list[jax.Array], list[Units]], list[Any]]


def contests(
    pattern: AnyPattern, params: Params, masks: Masks, axes: Sequence[Axes | None]
) -> Contests:
    """Returns the contests of a tree.

    Args:
      pattern: what dies together.
      params: tree of arrays.
      masks: bool arrays, `None` at leaves that are never pruned.
      axes: what the axes of each leaf are; `None`: they are told by its shape.
    """
    before = masks_lib.beside(params, masks)
    if isinstance(pattern, Coupled):
        return _of_groups(pattern, params, before)
    return _of_leaves(pattern, params, before, axes)


def _of_leaves(
    pattern: Pattern, params: Params, before: list[Any], axes: Sequence[Axes | None]
) -> Contests:
    pruned = [i for i, mask in enumerate(before) if mask is not None]
    shapes, treedef = [jnp.shape(before[i]) for i in pruned], jax.tree.structure(params)

    def whole(found: Sequence[Any]) -> list[Any]:
        entries = dict(zip(pruned, found, strict=True))
        return [entries.get(i) for i in range(len(before))]

    def units(scores: Sequence[Any]) -> list[Units]:
        found = []
        for i, shape in zip(pruned, shapes, strict=True):
            axis, layers = pattern.contests(shape, axes[i])
            grouped = pattern.to_groups(_floats(scores[i]), axes[i])
            found.append(Units(grouped, axis, layers=layers, kernel=axes[i]))
        return found

    def allocated(
        allocation: AnyAllocation, contestants: list[Units], sparsity: Sparsity
    ) -> list[Keep]:
        tree = treedef.unflatten(whole(contestants))
        found = masks_lib.beside(params, allocation(params, tree, sparsity))
        return [_keep(found[i]) for i in pruned]

    paths = masks_lib.paths(params)
    return Contests(
        names=[paths[i] for i in pruned],
        alive=[pattern.to_groups(before[i].astype(jnp.float32), axes[i]) > 0 for i in pruned],
        scored=pruned,
        units=units,
        allocated=allocated,
        masks=lambda alive, _: whole(
            [
                pattern.from_groups(a, shape, axes[i])
                for a, i, shape in zip(alive, pruned, shapes, strict=True)
            ]
        ),
    )


def _of_groups(pattern: Coupled, params: Params, before: list[Any]) -> Contests:
    names, paths = [group.name for group in pattern.groups], masks_lib.paths(params)
    covered = set(pattern.covered(params))
    whole = [
        jnp.ones(jnp.shape(leaf), bool) if mask is None and path in covered else mask
        for path, leaf, mask in zip(paths, jax.tree.leaves(params), before, strict=True)
    ]

    def units(scores: Sequence[Any]) -> list[Units]:
        by_path = {p: _floats(s) for p, s in zip(paths, scores, strict=True) if s is not None}
        return [Units(s) for s in pattern.units(by_path)]

    def allocated(
        allocation: AnyAllocation, contestants: list[Units], sparsity: Sparsity
    ) -> list[Keep]:
        scores = {name: unit.scores for name, unit in zip(names, contestants, strict=True)}
        found = allocation(scores, dict(zip(names, contestants, strict=True)), sparsity)
        return [_keep(found[name]) for name in names]

    def masks(alive: list[jax.Array], contestants: list[Units]) -> list[Any]:
        pairs = zip(alive, contestants, strict=True)
        found = pattern.masks([_one_at_least(a, unit) for a, unit in pairs])
        return [found[path] if path in covered else None for path in paths]

    return Contests(
        names=names,
        alive=pattern.alive(dict(zip(paths, whole, strict=True))),
        scored=[],  # a group needs scores of some of its leaves, and says so itself
        units=units,
        allocated=allocated,
        masks=masks,
    )


def _floats(scores: jax.Array) -> jax.Array:
    return scores.astype(at_least_float32(scores.dtype))


def _keep(found: Any) -> Keep:
    return found if isinstance(found, Keep) else Keep(found)


def _one_at_least(alive: jax.Array, units: Units) -> jax.Array:
    """Without any unit a layer would let nothing through: the best one stays."""
    among = None if units.among is None else [units.among]
    [best] = selection.top([units.scores], 1, among)
    return alive | (~alive.any() & best)
