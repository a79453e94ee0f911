"""Who competes with whom in a tree: the units of each leaf, or coupled units that run through several."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune import selection
from jaxprune.arrays.precision import at_least_float32
from jaxprune.types import AnyAllocation, Axes, Keep, Masks, Params, Pattern, Sparsity, Units
from jaxprune.units.coupling import AnyPattern, Coupled

__all__ = ["TreeContests", "find_contests"]


class TreeContests(NamedTuple):
    """A tree as lists of contests: one element per leaf with a mask, or one per group of coupled units.

    Attributes:
      names: paths of the leaves, or names of the groups.
      alive: bool arrays, which units live.
      scored_indices: indices of the leaves for which scores are required.
      units: scores by leaf -> the units that compete, with their scores.
      allocate: (allocation, units, sparsity) -> how many units are kept.
      masks: (units that live, units) -> masks by leaf, `None` where there is none.
    """

    names: list[str]
    alive: list[jax.Array]
    scored_indices: list[int]
    units: Callable[[Sequence[Any]], list[Units]]
    allocate: Callable[[AnyAllocation, list[Units], Sparsity], list[Keep]]
    masks: Callable[[list[jax.Array], list[Units]], list[Any]]


def find_contests(
    pattern: AnyPattern, params: Params, masks: Masks, axes: Sequence[Axes | None]
) -> TreeContests:
    """Returns the contests of a tree.

    Args:
      pattern: what dies together.
      params: tree of arrays.
      masks: bool arrays, `None` at leaves that are never pruned.
      axes: what the axes of each leaf are; `None`: they are told by its shape.
    """
    old_masks = masks_lib.beside(params, masks)
    if isinstance(pattern, Coupled):
        return _contests_of_groups(pattern, params, old_masks)
    return _contests_of_leaves(pattern, params, old_masks, axes)


def _contests_of_leaves(
    pattern: Pattern, params: Params, old_masks: list[Any], axes: Sequence[Axes | None]
) -> TreeContests:
    pruned_indices = [index for index, mask in enumerate(old_masks) if mask is not None]
    shapes = [jnp.shape(old_masks[index]) for index in pruned_indices]
    treedef = jax.tree.structure(params)

    def by_leaf(values: Sequence[Any]) -> list[Any]:
        """One value per leaf, `None` for those without a mask."""
        value_by_index = dict(zip(pruned_indices, values, strict=True))
        return [value_by_index.get(index) for index in range(len(old_masks))]

    def units_of(scores: Sequence[Any]) -> list[Units]:
        units = []
        for index, shape in zip(pruned_indices, shapes, strict=True):
            axis, layers = pattern.contests(shape, axes[index])
            grouped = pattern.to_groups(_as_floats(scores[index]), axes[index])
            units.append(Units(grouped, axis, layers=layers, kernel=axes[index]))
        return units

    def allocate(allocation: AnyAllocation, units: list[Units], sparsity: Sparsity) -> list[Keep]:
        tree = treedef.unflatten(by_leaf(units))
        counts = masks_lib.beside(params, allocation(params, tree, sparsity))
        return [_as_keep(counts[index]) for index in pruned_indices]

    def masks_of(alive: list[jax.Array], _: list[Units]) -> list[Any]:
        rows = zip(alive, pruned_indices, shapes, strict=True)
        return by_leaf(
            [
                pattern.from_groups(alive_units, shape, axes[index])
                for alive_units, index, shape in rows
            ]
        )

    paths = masks_lib.paths(params)
    return TreeContests(
        names=[paths[index] for index in pruned_indices],
        alive=[
            pattern.to_groups(old_masks[index].astype(jnp.float32), axes[index]) > 0
            for index in pruned_indices
        ],
        scored_indices=pruned_indices,
        units=units_of,
        allocate=allocate,
        masks=masks_of,
    )


def _contests_of_groups(pattern: Coupled, params: Params, old_masks: list[Any]) -> TreeContests:
    names = [group.name for group in pattern.groups]
    paths = masks_lib.paths(params)
    covered_paths = set(pattern.covered(params))
    filled_masks = [
        jnp.ones(jnp.shape(leaf), bool) if mask is None and path in covered_paths else mask
        for path, leaf, mask in zip(paths, jax.tree.leaves(params), old_masks, strict=True)
    ]

    def units_of(scores: Sequence[Any]) -> list[Units]:
        scores_by_path = {
            path: _as_floats(leaf_scores)
            for path, leaf_scores in zip(paths, scores, strict=True)
            if leaf_scores is not None
        }
        return [Units(group_scores) for group_scores in pattern.units(scores_by_path)]

    def allocate(allocation: AnyAllocation, units: list[Units], sparsity: Sparsity) -> list[Keep]:
        scores = {name: group.scores for name, group in zip(names, units, strict=True)}
        counts = allocation(scores, dict(zip(names, units, strict=True)), sparsity)
        return [_as_keep(counts[name]) for name in names]

    def masks_of(alive: list[jax.Array], units: list[Units]) -> list[Any]:
        pairs = zip(alive, units, strict=True)
        masks = pattern.masks([_keep_one(alive_units, group) for alive_units, group in pairs])
        return [masks[path] if path in covered_paths else None for path in paths]

    return TreeContests(
        names=names,
        alive=pattern.alive(dict(zip(paths, filled_masks, strict=True))),
        scored_indices=[],  # a group needs scores of some of its leaves, and says so itself
        units=units_of,
        allocate=allocate,
        masks=masks_of,
    )


def _as_floats(scores: jax.Array) -> jax.Array:
    return scores.astype(at_least_float32(scores.dtype))


def _as_keep(counts: Any) -> Keep:
    return counts if isinstance(counts, Keep) else Keep(counts)


def _keep_one(alive: jax.Array, group_units: Units) -> jax.Array:
    """The living units of a group, or its best one if none lives: a layer must let something through."""
    among = None if group_units.among is None else [group_units.among]
    [best] = selection.top([group_units.scores], 1, among)
    return alive | (~alive.any() & best)
