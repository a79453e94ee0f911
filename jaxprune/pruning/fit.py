"""Checks before anything is traced: that leaves fit the pattern, and that targets can be met."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import allocation as allocations
from jaxprune import masks as masks_lib
from jaxprune import trees
from jaxprune.allocation.counts import check_countable
from jaxprune.calls import is_traced, text
from jaxprune.method import Method
from jaxprune.selection.mask_counts import count_true
from jaxprune.types import (
    Allocation,
    AnyAllocation,
    Axes,
    Masks,
    Params,
    Pattern,
    Schedule,
    Units,
    Update,
)
from jaxprune.units.coupling import AnyPattern, Coupled
from jaxprune.wording import counted

__all__ = [
    "check_coupled",
    "check_fit",
    "check_reachable",
    "check_rounds",
    "count_living",
]


def check_fit(
    pattern: AnyPattern,
    allocation: AnyAllocation,
    schedule: Schedule,
    update: Update,
    params: Params,
    masks: Masks,
    axes: Sequence[Axes | None],
) -> None:
    """Refuses leaves that the pattern does not fit, and a target that would leave nothing of one.

    Args:
      pattern: which weights are removed together and which compete.
      allocation: who gets how much of the budget.
      schedule: its sparsity at its end, the fraction removed, is the target.
      update: how an old mask becomes a new one.
      params: tree of arrays.
      masks: bool arrays, `None` at leaves that are never pruned.
      axes: what the axes of each leaf are; `None`: they are told by its shape.

    Raises:
      ValueError: which leaves, and what would fit.
    """
    if isinstance(pattern, Coupled):
        check_coupled(pattern, params)
        return
    leaves = _pruned_leaves(params, masks, axes)
    faults = [(path, pattern.check(*leaf)) for path, leaf in leaves.items()]
    messages = [message.format(leaf=repr(path)) for path, message in faults if message]
    if messages:
        other_count = len(messages) - 1
        addition = (
            f" (and {counted(other_count, 'more leaf', 'more leaves')})" if other_count else ""
        )
        raise ValueError(messages[0] + addition + ".")
    for path, leaf in leaves.items():
        if math.prod(leaf[0]) >= 2**31:
            [leaf_units] = _unit_shapes(pattern, {path: leaf}).values()
            check_countable(f"a contest of {path!r}", leaf_units.members)
    divided_paths = _divided_paths(pattern, leaves)
    if not divided_paths:
        return
    if update.whole_leaves:
        raise ValueError(
            f"{text(update)} keeps no counts per contest, but in {divided_paths[0]!r} the pattern has "
            "many; use updates.regrow or updates.prune, or the pattern unstructured()."
        )
    units = _unit_shapes(pattern, leaves)
    with jax.ensure_compile_time_eval():
        sparsity = float(schedule.sparsity(schedule.end))
    if isinstance(allocation, Allocation) and allocation.shares and allocation.at_least:
        counts = _counts_without_floors(allocation, params, units, sparsity)
        emptied_paths = [path for path in divided_paths if counts[path].min() < 1]
    else:  # the scores decide, or a layer may be emptied
        with jax.ensure_compile_time_eval():
            counts_left = [
                int(allocations.survivors(units[path].members, sparsity)) for path in divided_paths
            ]
        emptied_paths = [] if any(counts_left) else divided_paths
    if emptied_paths:
        contest_size = units[emptied_paths[0]].members
        other_count = len(emptied_paths) - 1
        others = counted(other_count, "more leaf", "more leaves")
        addition = f" (and in {others})" if other_count else ""
        raise ValueError(
            f"a sparsity of {sparsity:g} leaves none of the {contest_size} weights that compete with each "
            f"other in {emptied_paths[0]!r}{addition}; this pattern allows {1 - 1 / contest_size:g} at most: "
            "give a lower sparsity, or exclude the leaf with prunable=."
        )


def check_reachable(method: Method) -> None:
    """Refuses to train towards a target that was passed: a schedule that goes down, where nothing grows back.

    Args:
      method: the method.

    Raises:
      ValueError: the first step at which more would be removed than at the end, and what would do.
    """
    schedule, update = method.schedule, method.update
    if update.ranks_dead_units or update.grow_criterion is not None:
        return
    with jax.ensure_compile_time_eval():
        target, first = schedule.sparsity(schedule.end), schedule.sparsity(0)
        if is_traced(target) or is_traced(first) or float(first) <= float(target):
            return  # unknown, or as usual
        for step in range(schedule.end):
            if bool(schedule.due(step)) and float(schedule.sparsity(step)) > float(target):
                raise ValueError(
                    f"{schedule} removes {float(schedule.sparsity(step)):g} at step {step} and "
                    f"{float(target):g} at its end, but with {text(update)} nothing grows back; start at "
                    "or below the target, or give update=jaxprune.updates.reselect()."
                )


def check_rounds(
    pattern: AnyPattern,
    allocation: AnyAllocation,
    sparsities: Sequence[float],
    params: Params,
    masks: Masks,
    axes: Sequence[Axes | None],
    *,
    dense: bool = False,
) -> None:
    """Refuses rounds of which one would take nothing, or all that is left, of the contests of a leaf.

    Where many contests keep the same number each, a share of the few that are left in one can round to
    nothing: the round and all after it would leave the leaf as it is.

    Args:
      pattern: which weights are removed together and which compete.
      allocation: who gets how much of the budget; nothing is refused where the scores decide.
      sparsities: of each round, the fraction removed of what is left.
      params: tree of arrays.
      masks: before the first round; nothing is refused where they are traced.
      axes: what the axes of each leaf are.
      dense: whether everything is alive before the first round, traced or not.

    Raises:
      ValueError: which round, and of which leaf.
    """
    if (
        isinstance(pattern, Coupled)
        or not isinstance(allocation, Allocation)
        or not allocation.shares
    ):
        return
    leaves = _pruned_leaves(params, masks, axes)
    divided_paths = _divided_paths(pattern, leaves)
    old_masks = [mask for mask in jax.tree.leaves(masks) if mask is not None]
    if not divided_paths or (not dense and any(is_traced(mask) for mask in old_masks)):
        return
    units = _unit_shapes(pattern, leaves)
    if not dense:
        living_units = [
            pattern.to_groups(mask.astype(jnp.float32), leaf_units.kernel) > 0
            for leaf_units, mask in zip(units.values(), old_masks, strict=True)
        ]
        units = {
            path: dataclasses.replace(leaf_units, competing=count_living(leaf_units, units_alive))
            for (path, leaf_units), units_alive in zip(units.items(), living_units, strict=True)
        }
    for round_index, sparsity in enumerate(sparsities):
        undivided = {path: _in_one_contest(leaf_units) for path, leaf_units in units.items()}
        asked_counts = _counts_without_floors(allocation, params, undivided, sparsity)
        counts = _counts_without_floors(allocation, params, units, sparsity)
        for path in divided_paths:
            counts_before = np.broadcast_to(units[path].budgeted, counts[path].shape)
            keeps_none = (counts[path] < 1) & (counts_before > 0) & bool(allocation.at_least)
            asks_for_some = asked_counts[path] < counts_before * units[path].contests
            removes_none = (counts[path] == counts_before) & asks_for_some
            is_idle = keeps_none | removes_none
            if not is_idle.any():
                continue
            weight_count = counts_before[is_idle].flat[0]
            quantity = "all" if keeps_none.any() else "nothing"
            effect = "keeps none" if keeps_none.any() else "removes nothing"
            raise ValueError(
                f"round {round_index}: {sparsity:g} of the {weight_count} weights that are left in "
                f"each contest of {path!r} rounds to {quantity}, so that it {effect}; give another share, "
                "fewer rounds or larger contests, or exclude the leaf with prunable=."
            )
        units = {
            path: dataclasses.replace(leaf_units, competing=counts[path])  # type: ignore[arg-type]
            for path, leaf_units in units.items()
        }


def count_living(leaf_units: Units, alive: jax.Array) -> jax.Array:
    """Returns per layer how many units of a contest are alive, in the mean over its contests."""
    unit_axes = tuple(i for i in range(alive.ndim) if i not in leaf_units.layers)
    return count_true(alive, unit_axes) // leaf_units.contests


def check_coupled(pattern: Coupled, params: Params) -> None:
    """Refuses a tree that is not the one in which coupled units were found.

    Raises:
      ValueError: which leaf is missing or has another shape.
    """
    paths = masks_lib.paths(params)
    shapes = dict(zip(paths, map(jnp.shape, jax.tree.leaves(params)), strict=True))
    if fault := pattern.check(shapes):
        raise ValueError(f"{fault}.")


def _pruned_leaves(
    params: Params, masks: Masks, axes: Sequence[Axes | None]
) -> dict[str, tuple[tuple[int, ...], Axes | None]]:
    """Returns shape and axes of each leaf that has a mask, by path; refuses two leaves of the same path."""
    has_mask = jax.tree.leaves(jax.tree.map(lambda _, mask: mask is not None, params, masks))
    paths = masks_lib.paths(params)
    trees.check_distinct("prune", paths)
    rows = zip(paths, jax.tree.leaves(params), axes, has_mask, strict=True)
    return {
        path: (jnp.shape(leaf), leaf_axes) for path, leaf, leaf_axes, is_pruned in rows if is_pruned
    }


def _divided_paths(
    pattern: Pattern, leaves: Mapping[str, tuple[tuple[int, ...], Axes | None]]
) -> list[str]:
    """Returns the paths of the leaves whose layers consist of many contests."""
    return [path for path, leaf in leaves.items() if pattern.contests(*leaf).axis is not None]


def _unit_shapes(
    pattern: Pattern, leaves: Mapping[str, tuple[tuple[int, ...], Axes | None]]
) -> dict[str, Units]:
    """Returns the units of each leaf by path, with shapes and dtypes in place of scores."""

    def shapes_of_leaf(shape: tuple[int, ...], kernel: Axes | None) -> Units:
        scores = jax.ShapeDtypeStruct(shape, jnp.float32)
        grouped = jax.eval_shape(lambda scores: pattern.to_groups(scores, kernel), scores)
        axis, layers = pattern.contests(shape, kernel)
        return Units(grouped, axis, layers=layers, kernel=kernel)  # type: ignore[arg-type]

    return {path: shapes_of_leaf(*leaf) for path, leaf in leaves.items()}


def _in_one_contest(leaf_units: Units) -> Units:
    """Returns the same units, with those of a layer in one contest."""
    competing: Any = np.int32(leaf_units.budgeted * leaf_units.contests)
    return dataclasses.replace(leaf_units, axis=None, competing=competing)


def _counts_without_floors(
    allocation: Allocation, params: Params, units: Mapping[str, Units], sparsity: float
) -> dict[str, np.ndarray]:
    """Returns how many units of each contest would be kept if there were no floors, by path."""
    assert allocation.shares is not None
    paths = masks_lib.paths(params)
    treedef = jax.tree.structure(params)
    with jax.ensure_compile_time_eval():
        tree = allocation.shares(params, treedef.unflatten(map(units.get, paths)), sparsity)
        layer_counts = masks_lib.beside(params, tree)
        pairs = zip(paths, layer_counts, strict=True)
        return {path: np.asarray(count) for path, count in pairs if path in units}
