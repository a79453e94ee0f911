"""Masks from a method: those a run starts from, those of the next step, and pruning in one shot.

`change` is the one place where the parts of a method meet. An order needs numbers: where units that must be
ranked have no score (NaN), `change` says which, and whoever asked decides: pruning refuses, training keeps
the masks that it has and tries again at the next update (`jaxprune.transforms.changes`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxprune import checks, trees
from jaxprune import masks as masks_lib
from jaxprune import updates as updates_lib
from jaxprune.calls import text
from jaxprune.contests import contests
from jaxprune.counting import counts_of
from jaxprune.deferred import called_once_per_kind, run_deferred
from jaxprune.fit import check_fit, check_rounds, living, scores_of
from jaxprune.kernel_axes import AxesTree, of_leaves
from jaxprune.masks import Prunable
from jaxprune.method import METHOD, Method, Partition, by_part
from jaxprune.selection import WHERE_READ
from jaxprune.shards import check_replicated
from jaxprune.starting import full_masks, given_masks
from jaxprune.types import Axes, Criterion, Masks, Params, Step, Units

__all__ = ["Unknown", "change", "compiled_change", "initial_masks", "next_masks", "prune"]


class Unknown(NamedTuple):
    """Units of one leaf, or one group of coupled units, that must be ranked and have the score NaN.

    Attributes:
      leaf: path of the leaf, or name of the group.
      criterion: that gave the scores.
      count: int32 scalar, how many units have no score.
      ranked: how many must be ranked.
    """

    leaf: str
    criterion: str
    count: jax.Array
    ranked: jax.Array


def next_masks(
    method: Method | Partition,
    params: Params,
    masks: Masks,
    step: Step,
    *,
    of_the_living: bool = False,
    axes: AxesTree | None = None,
    **signals: Any,
) -> Masks:
    """Returns the masks that `method` makes of `masks` at `step`.

    Args:
      method: the method.
      params: tree of arrays; dead weights are zero there.
      masks: bool arrays, `None` at leaves that are never pruned.
      step: at which the schedule, and a fraction that decays, are read.
      of_the_living: whether the sparsity is a fraction of the units that are alive, not of all.
      axes: which axes of the leaves are inputs, outputs and layers, from `jaxprune.axes`; `None`: their
        shapes tell, and whoever must know more refuses.
      **signals: what the criteria need: `grads`, `key`, ...

    Returns:
      The new masks. Inside jit, where nothing can be refused, a method that has NaN to rank leaves the masks
      of its leaves as they were. Infinite scores are ranked, first or last.

    Raises:
      ValueError: if a leaf does not fit the pattern, the scores do not fit the parameters, or (outside jit)
        a weight that must be ranked has the score NaN.
      TypeError: if an argument is of the wrong kind, or a signal is missing.
    """
    checks.check("next_masks", method=(method, METHOD), params=(params, checks.TREE))
    masks_lib.check_order("next_masks", params, masks)
    masks_lib.validate(params, masks)
    params = trees.plain(params)
    check_replicated("next_masks", params)
    known_axes = of_leaves(axes, params)

    def choose(part: Method, share: Masks) -> Masks:
        new, unknown = change(part, params, share, step, signals, known_axes, of_the_living)
        return _settled(new, share, unknown)

    return by_part(method, params, masks, choose)


def change(
    method: Method,
    params: Params,
    masks: Masks,
    step: Step,
    signals: dict[str, Any],
    axes: Sequence[Axes | None],
    of_the_living: bool = False,
    dead_are_zero: bool = False,
) -> tuple[Masks, list[Unknown]]:
    """Returns the masks that one method makes of its own, and where scores were missing that it needed.

    Where any count of the second is not zero, the masks mean nothing.

    Args:
      method: the method.
      params: tree of arrays.
      masks: bool arrays, `None` at leaves that are not its own.
      step: at which the schedule is read; after its end, at its end.
      signals: what the criteria need, by keyword.
      axes: what the axes of each leaf are; `None`: they are told by its shape.
      of_the_living: whether the sparsity is a fraction of the units that are alive, not of all.
      dead_are_zero: whether weights off the masks count as zero, whatever is there.
    """

    def made() -> tuple[Masks, list[Unknown]]:
        weights = masks_lib.apply(params, masks) if dead_are_zero else params
        return _change(method, weights, masks, step, signals, axes, of_the_living)

    if not _on_one_device(params, masks):
        return made()
    labels: list[Unknown] = []  # names are no arrays, and cannot come out of a program

    def program() -> tuple[Masks, list[tuple[jax.Array, jax.Array]]]:
        new, unknown = made()
        labels[:] = unknown
        return new, [(each.count, each.ranked) for each in unknown]

    new, counts = run_deferred(program, _WHERE_READ)
    pairs = zip(labels, counts, strict=True)
    return new, [each._replace(count=count, ranked=ranked) for each, (count, ranked) in pairs]


def _on_one_device(params: Params, masks: Masks) -> bool:
    """Whether this is part of a compiled program for one device: elsewhere scores are stored."""
    leaves = jax.tree.leaves((params, masks))
    if not all(isinstance(leaf, Tracer) for leaf in leaves):
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
    of_the_living: bool,
) -> tuple[Masks, list[Unknown]]:
    check_fit(
        method.pattern, method.allocation, method.schedule, method.update, params, masks, axes
    )
    if of_the_living and not isinstance(step, Tracer):
        with jax.ensure_compile_time_eval():
            share = float(method.schedule.sparsity(step))
        check_rounds(method.pattern, method.allocation, [share], params, masks, axes)
    rivalry, update = contests(method.pattern, params, masks, axes), method.update

    def units(criterion: Criterion) -> list[Units]:
        return rivalry.units(scores_of(criterion, params, signals, rivalry.scored, axes))

    contestants = units(method.criterion)
    everybody = [None] * len(contestants)
    ranked = everybody if update.revives else rivalry.alive
    contestants = [
        dataclasses.replace(unit, among=among)
        for unit, among in zip(contestants, ranked, strict=True)
    ]
    if of_the_living:
        contestants = [
            dataclasses.replace(unit, competing=living(unit, alive))
            for unit, alive in zip(contestants, rivalry.alive, strict=True)
        ]
    unknown = _without_score(method.criterion, rivalry.names, contestants)
    rivals = contestants
    if update.challengers is not None:
        rivals = units(update.challengers)
        unknown += _without_score(update.challengers, rivalry.names, rivals)
    sparsity = method.schedule.sparsity(step)
    keep = rivalry.allocated(method.allocation, contestants, sparsity)
    after = update.select(rivalry.alive, contestants, rivals, keep, step)
    leaves = jax.tree.leaves(params)
    found = rivalry.masks(after, contestants)
    if not update.revives and update.challengers is None:
        # Of a unit that lives, weights may be dead that were so before: they stay dead.
        dead = masks_lib.beside(params, masks)
        pairs = zip(found, dead, strict=True)
        found = [m if m is None or old is None else m & old for m, old in pairs]
    placed = [None if m is None else _placed(m, w) for m, w in zip(found, leaves, strict=True)]
    return jax.tree.structure(params).unflatten(placed), unknown


def _without_score(
    criterion: Criterion, names: Sequence[str], units: Sequence[Units]
) -> list[Unknown]:
    """How many units of each leaf must be ranked and cannot be."""
    name = text(criterion)

    def count(leaf: str, unit: Units) -> Unknown:
        missing = jnp.isnan(unit.scores)
        ranked = jnp.ones_like(missing) if unit.among is None else unit.among
        return Unknown(leaf, name, *_numbers_marked(missing & ranked, ranked))

    return [count(leaf, unit) for leaf, unit in zip(names, units, strict=True)]


@jax.jit
def _numbers_marked(missing: jax.Array, ranked: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many units each of two masks marks, the first of them within the second."""
    mesh = jax.typeof(missing).sharding.mesh
    if mesh.auto_axes or mesh.explicit_axes or not missing.ndim:
        return jnp.sum(missing, dtype=jnp.int32), jnp.sum(ranked, dtype=jnp.int32)
    found, every = counts_of([missing, ranked], tuple(range(missing.ndim)))
    found = jnp.where(every > 0, found, 0)  # so that both are read: XLA:CPU counts one alone slowly
    return found, every


_WHERE_READ = {
    **WHERE_READ,
    "_numbers_marked": called_once_per_kind,
    "_top_along": called_once_per_kind,
}


def _settled(new: Masks, old: Masks, unknown: Sequence[Unknown]) -> Masks:
    """The new masks if all scores are known; otherwise a refusal, or in a traced call the old masks."""
    missing = sum(each.count for each in unknown)
    if not isinstance(missing, Tracer):
        _refuse(unknown)
        return new
    return jax.tree.map(lambda n, o: jnp.where(missing == 0, n, o), new, old)


def _refuse(unknown: Sequence[Unknown]) -> None:
    """Raises `ValueError` if a unit that must be ranked has no score: leaf, criterion and count."""
    missing = [each for each in unknown if int(each.count)]
    if not missing:
        return
    first = missing[0]
    others = [repr(each.leaf) for each in missing[1:] if each.leaf != first.leaf]
    more = f" (as have some of {', '.join(others[:5])})" if others else ""
    raise ValueError(
        f"{first.criterion}: {int(first.count)} of the {int(first.ranked)} units of {first.leaf!r} that must "
        f"be ranked have the score NaN{more}, and NaN is no order; look for NaN in the weights and in the "
        "signals, or exclude the leaf with prunable=."
    )


def _placed(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    """The mask where its leaf is, on an explicit mesh; elsewhere the compiler sees to it."""
    sharding = jax.typeof(leaf).sharding
    if sharding.mesh.explicit_axes:
        return jax.sharding.reshard(mask, sharding)
    concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
    if concrete and not isinstance(mask, Tracer) and len(leaf.sharding.device_set) > 1:
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

    def first(part: Method, masks: Masks) -> Masks:
        check_fit(
            part.pattern, part.allocation, part.schedule, part.update, params, masks, known_axes
        )
        if part.initial is None or given is not None:
            return masks
        check_replicated(f"{who}: init", params)
        sparse = dataclasses.replace(part, criterion=part.initial, update=updates_lib.prune())
        return compiled_change(sparse, known_axes)(params, masks, 0, signals)

    if given is None:
        masks = full_masks(method, params, prunable, axes, frozen=frozen)
    else:
        masks = given_masks(who, method, given, params, prunable, frozen)
        masks = jax.tree.map(jnp.copy, masks)
    return by_part(method, params, masks, first)


def compiled_change(
    method: Method, axes: Sequence[Axes | None]
) -> Callable[[Params, Masks, Step, dict[str, Any]], Masks]:
    """Returns (params, masks, step, signals) -> masks, compiled once; it refuses as `next_masks` does.

    It is for trees of one structure.
    """
    labels: list[Unknown] = []  # names are no arrays, and cannot come out of a compiled function

    @jax.jit
    def choose(params: Params, masks: Masks, step: Step, signals: dict[str, Any]) -> Any:
        new, unknown = change(method, params, masks, step, signals, axes)
        labels[:] = [each._replace(count=0, ranked=0) for each in unknown]  # type: ignore[arg-type]
        return new, [(each.count, each.ranked) for each in unknown]

    def changed(params: Params, masks: Masks, step: Step, signals: dict[str, Any]) -> Masks:
        new, counts = choose(params, masks, step, signals)
        pairs = zip(labels, counts, strict=True)
        unknown = [each._replace(count=count, ranked=ranked) for each, (count, ranked) in pairs]
        return _settled(new, masks, unknown)

    return changed


def prune(
    params: Params,
    method: Method | Partition,
    *,
    prunable: Prunable = None,
    masks: Masks | None = None,
    of_the_living: bool = False,
    key: jax.Array | None = None,
    axes: AxesTree | None = None,
    **signals: Any,
) -> tuple[Params, Masks]:
    """Prunes once, outside training, to the sparsity that the method's schedule ends with.

    Args:
      params: tree of arrays.
      method: for instance `jaxprune.methods.magnitude(sparsity=0.9)`.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      masks: masks to start from; `None`: everything is alive.
      of_the_living: whether the sparsity is a fraction of what `masks` leave alive, not of all: 0.2 again and
        again removes a fifth of what remains each time.
      key: PRNG key, for criteria that draw.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`,
        a tree beside `params`, or `jaxprune.Axes` by regular expression. Without it leaves of two axes are
        `[inputs, outputs]`, those of four are convolutions if their shape can be one's, and whatever depends
        on direction refuses others.
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
    checks.check("prune", of_the_living=(of_the_living, checks.BOOLEAN))
    theirs, params = params, trees.plain(params)
    if masks is None:
        masks = full_masks(method, params, prunable, axes)
    else:
        masks = given_masks("prune", method, masks, params, prunable)
    if key is not None:
        signals["key"] = key
    last = lambda part, share: next_masks(
        part, params, share, part.end, of_the_living=of_the_living, axes=axes, **signals
    )
    masks = by_part(method, params, masks, last)
    return masks_lib.apply(theirs, masks), masks
