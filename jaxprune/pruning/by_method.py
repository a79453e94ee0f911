"""Masks from a method: those a run starts from, those of the next step, and pruning in one shot.

`change` is the one place where the parts of a method meet. NaN has no place in an order: where units that
must be ranked have the score NaN, `change` says which, and whoever asked decides: pruning refuses, training
keeps the masks that it has and tries again at the next update (`jaxprune.transforms.changes`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks, trees
from jaxprune import masks as masks_lib
from jaxprune import updates as updates_lib
from jaxprune.calls import is_traced
from jaxprune.kernel_axes import AxesTree, of_leaves
from jaxprune.masks import Prunable
from jaxprune.method import METHOD, Method, Partition, by_member
from jaxprune.pruning.fit import check_fit, check_reachable, check_rounds, count_living
from jaxprune.pruning.missing_scores import MissingScores, resolve_unknown, without_score
from jaxprune.pruning.scoring import scores_of
from jaxprune.pruning.shards import check_replicated
from jaxprune.pruning.starting import full_masks, given_masks
from jaxprune.selection import REPLACEMENTS
from jaxprune.selection.deferred import run_deferred
from jaxprune.types import Axes, Criterion, Masks, Params, Step, Units
from jaxprune.units.contests import find_contests

__all__ = ["change", "compiled_change", "initial_masks", "next_masks", "prune"]


def next_masks(
    method: Method | Partition,
    params: Params,
    masks: Masks,
    step: Step,
    *,
    of_remaining: bool = False,
    axes: AxesTree | None = None,
    **signals: Any,
) -> Masks:
    """Returns the next masks: those that `method` makes from `masks` at `step`.

    Args:
      method: the method.
      params: tree of arrays, in which removed weights are zero.
      masks: bool arrays, `None` at leaves that are never pruned.
      step: number of updates so far, at which the schedule (and a decaying fraction) is read.
      of_remaining: whether the sparsity is a fraction of the units that are alive, not of all.
      axes: which axes of the leaves are inputs, outputs and layers, from `jaxprune.axes`; `None`: taken from
        their shapes, and refused if the shapes are not enough.
      **signals: what the criteria need: `grads`, `key`, ...

    Returns:
      The new masks. Inside jit, where no error can be raised, masks stay as they were if their method must
      rank a score that is NaN. Infinite scores are ranked, first or last.

    Raises:
      ValueError: if a leaf does not fit the pattern, the scores do not fit the parameters, or (outside jit)
        a weight that must be ranked has the score NaN.
      TypeError: if an argument is of the wrong kind, or a signal is missing.

    >>> from jaxprune import methods
    >>> params = {"w": jnp.array([[1.0, -3.0]])}
    >>> next_masks(methods.magnitude(sparsity=0.5), params, masks_lib.make(params), step=0)
    {'w': Array([[False,  True]], dtype=bool)}
    """
    checks.check("next_masks", method=(method, METHOD), params=(params, checks.TREE))
    masks_lib.check_order("next_masks", params, masks)
    masks_lib.validate(params, masks)
    params = trees.plain(params)
    check_replicated("next_masks", params)
    known_axes = of_leaves(axes, params)

    def choose(member: Method, own_masks: Masks) -> Masks:
        new_masks, unknown = change(
            member, params, own_masks, step, signals, known_axes, of_remaining
        )
        return resolve_unknown(new_masks, own_masks, unknown)

    return by_member(method, params, masks, choose)


def change(
    method: Method,
    params: Params,
    masks: Masks,
    step: Step,
    signals: dict[str, Any],
    axes: Sequence[Axes | None],
    of_remaining: bool = False,
    dead_are_zero: bool = False,
    only_if: Callable[[list[MissingScores]], Any] | None = None,
) -> tuple[Masks, list[MissingScores]]:
    """Returns the masks that one method makes of its own, and where scores were missing that it needed.

    If one of these has a count above zero, the masks mean nothing.

    Args:
      method: the method.
      params: tree of arrays.
      masks: bool arrays, `None` at leaves that are not its own.
      step: at which the schedule is read; after its end, at its end.
      signals: what the criteria need, by keyword.
      axes: what the axes of each leaf are; `None`: they are told by its shape.
      of_remaining: whether the sparsity is a fraction of the units that are alive, not of all.
      dead_are_zero: whether weights off the masks count as zero, whatever is there.
      only_if: where scores were missing -> a bool scalar; if it is false, the masks stay as they are. `None`:
        they change.
    """

    def make_change() -> tuple[Masks, list[MissingScores]]:
        weights = masks_lib.apply(params, masks) if dead_are_zero else params
        new_masks, unknown = _change(method, weights, masks, step, signals, axes, of_remaining)
        if only_if is not None:
            changes = only_if(unknown)
            new_masks = jax.tree.map(
                lambda new, old: jnp.where(changes, new, old), new_masks, masks
            )
        return new_masks, unknown

    if not _is_for_one_device(params, masks):
        return make_change()
    return run_deferred(make_change, REPLACEMENTS)


def _is_for_one_device(params: Params, masks: Masks) -> bool:
    """Whether this is traced for a program on one device; otherwise scores are stored."""
    leaves = jax.tree.leaves((params, masks))
    if not all(is_traced(leaf) for leaf in leaves):
        return False
    meshes = [
        jax.sharding.get_abstract_mesh(),
        *(jax.typeof(leaf).sharding.mesh for leaf in leaves),
    ]
    return all(mesh.empty for mesh in meshes)


def _change(
    method: Method,
    params: Params,
    masks: Masks,
    step: Step,
    signals: dict[str, Any],
    axes: Sequence[Axes | None],
    of_remaining: bool,
) -> tuple[Masks, list[MissingScores]]:
    """Checks, scores, ranks, allocates, selects and places: `change`, wherever scores are computed."""
    check_fit(
        method.pattern, method.allocation, method.schedule, method.update, params, masks, axes
    )
    if of_remaining and not is_traced(step):
        with jax.ensure_compile_time_eval():
            known_sparsity = float(method.schedule.sparsity(step))
        check_rounds(method.pattern, method.allocation, [known_sparsity], params, masks, axes)
    tree_contests = find_contests(method.pattern, params, masks, axes)
    update = method.update

    def units_of(criterion: Criterion) -> list[Units]:
        scored_indices = tree_contests.scored_indices
        return tree_contests.units(scores_of(criterion, params, signals, scored_indices, axes))

    units = units_of(method.criterion)
    ranked_masks = [None] * len(units) if update.ranks_dead_units else tree_contests.alive
    units = [
        dataclasses.replace(leaf_units, among=ranked)
        for leaf_units, ranked in zip(units, ranked_masks, strict=True)
    ]
    if of_remaining:
        units = [
            dataclasses.replace(leaf_units, competing=count_living(leaf_units, alive))
            for leaf_units, alive in zip(units, tree_contests.alive, strict=True)
        ]
    unknown = [without_score(method.criterion, tree_contests.names, units)]
    grow_scores = units
    if update.grow_criterion is not None:
        grow_scores = units_of(update.grow_criterion)
        unknown.append(without_score(update.grow_criterion, tree_contests.names, grow_scores))
    sparsity = method.schedule.sparsity(step)
    keep = tree_contests.allocate(method.allocation, units, sparsity)
    new_alive = update.select(tree_contests.alive, units, grow_scores, keep, step)
    leaves = jax.tree.leaves(params)
    new_masks = tree_contests.masks(new_alive, units)
    if not update.ranks_dead_units and update.grow_criterion is None:
        # Of a unit that lives, weights may be dead that were so before: they stay dead.
        old_masks = masks_lib.beside(params, masks)
        new_masks = [
            new if new is None or old is None else new & old
            for new, old in zip(new_masks, old_masks, strict=True)
        ]
    placed_masks = [
        None if mask is None else _place_beside(mask, leaf)
        for mask, leaf in zip(new_masks, leaves, strict=True)
    ]
    return jax.tree.structure(params).unflatten(placed_masks), unknown


def _place_beside(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    """Moves a mask to the devices of its leaf, where the compiler does not see to it."""
    sharding = jax.typeof(leaf).sharding
    if sharding.mesh.explicit_axes:
        return jax.sharding.reshard(mask, sharding)
    is_known = isinstance(leaf, jax.Array) and not is_traced(leaf)
    if is_known and not is_traced(mask) and len(leaf.sharding.device_set) > 1:
        return jax.device_put(mask, leaf.sharding)
    return mask


def initial_masks(
    method: Method | Partition,
    params: Params,
    prunable: Prunable = None,
    key: jax.Array | None = None,
    axes: AxesTree | None = None,
    *,
    frozen: Sequence[bool] | None = None,
    given: Masks | None = None,
    who: str = "sparsify",
) -> Masks:
    """Returns the masks that a training run with `method` starts from, in arrays of their own.

    Args:
      method: the method.
      params: tree of arrays.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      key: PRNG key, for criteria that draw.
      axes: which axes of the leaves are inputs, outputs and layers.
      frozen: per leaf, whether it never changes, and so is not pruned.
      given: masks to start from instead; the caller's arrays are copied.
      who: the transform that starts.
    """
    if trees.is_placeholder(params):
        return params
    signals = {} if key is None else {"key": key}
    known_axes = of_leaves(axes, params)

    def first_masks(member: Method, masks: Masks) -> Masks:
        check_fit(
            member.pattern,
            member.allocation,
            member.schedule,
            member.update,
            params,
            masks,
            known_axes,
        )
        check_reachable(member)
        if member.initial is None or given is not None:
            return masks
        check_replicated(f"{who}: init", params)
        initial_member = dataclasses.replace(
            member, criterion=member.initial, update=updates_lib.prune()
        )
        return compiled_change(initial_member, known_axes)(params, masks, 0, signals)

    if given is None:
        masks = full_masks(method, params, prunable, axes, frozen=frozen)
    else:
        masks = given_masks(who, method, given, params, prunable, frozen)
        masks = jax.tree.map(jnp.copy, masks)
    return by_member(method, params, masks, first_masks)


def compiled_change(
    method: Method, axes: Sequence[Axes | None]
) -> Callable[[Params, Masks, Step, dict[str, Any]], Masks]:
    """Returns (params, masks, step, signals) -> masks, compiled once; it refuses as `next_masks` does.

    Args:
      method: the method.
      axes: what the axes of each leaf are; so the function is for trees of one structure.
    """

    @jax.jit
    def choose(params: Params, masks: Masks, step: Step, signals: dict[str, Any]) -> Any:
        return change(method, params, masks, step, signals, axes)

    def change_masks(params: Params, masks: Masks, step: Step, signals: dict[str, Any]) -> Masks:
        new_masks, unknown = choose(params, masks, step, signals)
        return resolve_unknown(new_masks, masks, unknown)

    return change_masks


def prune(
    params: Params,
    method: Method | Partition,
    *,
    prunable: Prunable = None,
    masks: Masks | None = None,
    of_remaining: bool = False,
    key: jax.Array | None = None,
    axes: AxesTree | None = None,
    **signals: Any,
) -> tuple[Params, Masks]:
    """Prunes once, outside training, to the last sparsity of the method's schedule.

    Args:
      params: tree of arrays.
      method: for instance `jaxprune.methods.magnitude(sparsity=0.9)`.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      masks: masks to start from; `None`: everything is alive.
      of_remaining: whether the sparsity is a fraction of the weights that `masks` keep, not of all: each call
        with 0.2 then removes a fifth of what remains.
      key: PRNG key, for criteria that draw.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`,
        a tree beside `params`, or `jaxprune.Axes` by regular expression. Without it leaves with two axes are
        taken for `[inputs, outputs]`, and leaves with four and a small window for convolutions; others are
        refused if inputs and outputs matter.
      **signals: what the criterion needs, such as `grads`.

    Returns:
      The parameters with exact zeros where pruned, and the masks.

    Raises:
      ValueError: if a leaf does not fit the pattern, it is not known which of its axes are inputs, a filter
        matches nothing, or (outside jit) a weight that must be ranked has the score NaN.
      TypeError: if an argument is of the wrong kind, or a signal is missing that the criterion reads.

    >>> from jaxprune import methods
    >>> pruned, masks = prune({"w": jnp.array([[1.0, -3.0]])}, methods.magnitude(sparsity=0.5))
    >>> pruned
    {'w': Array([[ 0., -3.]], dtype=float32)}
    """
    checks.check("prune", params=(params, checks.TREE), method=(method, METHOD))
    checks.check("prune", key=(key, checks.optional(checks.KEY)))
    checks.check("prune", of_remaining=(of_remaining, checks.BOOLEAN))
    given_params = params
    params = trees.plain(params)
    if masks is None:
        masks = full_masks(method, params, prunable, axes)
    else:
        masks = given_masks("prune", method, masks, params, prunable)
    if key is not None:
        signals["key"] = key

    def last_masks(member: Method, own_masks: Masks) -> Masks:
        return next_masks(
            member, params, own_masks, member.end, of_remaining=of_remaining, axes=axes, **signals
        )

    masks = by_member(method, params, masks, last_masks)
    return masks_lib.apply(given_params, masks), masks
