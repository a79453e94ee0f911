"""A method is five concepts in a tuple; `next_masks` is the one place where they meet."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import allocation as allocations
from jaxprune import masks as masks_lib
from jaxprune import patterns
from jaxprune import updates as updates_lib
from jaxprune.masks import Prunable
from jaxprune.types import (
    Allocation,
    Criterion,
    Keep,
    Masks,
    Params,
    Pattern,
    Schedule,
    Step,
    Units,
    Update,
)

__all__ = ["Method", "initial_masks", "next_masks", "prune"]


class Method(NamedTuple):
    """How masks come about: criterion · pattern · allocation · schedule · update.

    Attributes:
      criterion: what each weight is worth.
      schedule: when masks change and how sparse they must be by then.
      pattern: what dies together and who competes.
      allocation: who gets how much of the budget.
      update: how an old mask becomes a new one.
      initial: criterion of the first masks of a method that is sparse from the start; `None`: dense.

    >>> from jaxprune import criteria, schedules
    >>> gmp = Method(criteria.magnitude, schedules.cubic(sparsity=0.9, begin=0, end=100, every=10))
    """

    criterion: Criterion
    schedule: Schedule
    pattern: Pattern = patterns.unstructured()
    allocation: Allocation = allocations.uniform()
    update: Update = updates_lib.prune()
    initial: Criterion | None = None


def next_masks(
    method: Method,
    params: Params,
    masks: Masks,
    step: Step,
    *,
    of_the_living: bool = False,
    **signals: Any,
) -> Masks:
    """Returns the masks that `method` makes of `masks` at `step`.

    Args:
      method: the method.
      params: tree of arrays; dead weights are zero there.
      masks: bool arrays, `None` at leaves that are never pruned.
      step: at which the schedule, and a fraction that decays, are read.
      of_the_living: whether the sparsity is a fraction of the units that are alive, not of all.
      **signals: what the criteria need: `grads`, `key`, ...

    Raises:
      ValueError: if a leaf does not fit the pattern, or the scores do not fit the parameters.
    """
    _check_pattern(method.pattern, params, masks)
    treedef, before = jax.tree.structure(params), masks_lib.beside(params, masks)
    pruned = [i for i, mask in enumerate(before) if mask is not None]
    shapes = [jnp.shape(before[i]) for i in pruned]
    pattern, update = method.pattern, method.update
    alive = [pattern.to_groups(before[i].astype(jnp.float32)) > 0 for i in pruned]

    def units(criterion: Criterion) -> list[Units]:
        scores = jax.tree.leaves(_scores(criterion, params, signals))
        floats = [scores[i].astype(jnp.promote_types(scores[i].dtype, jnp.float32)) for i in pruned]
        axes = [pattern.axis(len(shape)) for shape in shapes]
        return [Units(pattern.to_groups(s), axis) for s, axis in zip(floats, axes, strict=True)]

    contestants = units(method.criterion)
    if not update.revives:
        contestants = [_living_first(u, a) for u, a in zip(contestants, alive, strict=True)]
    if of_the_living:
        contestants = [
            Units(u.scores, u.axis, jnp.sum(a, dtype=jnp.int32) // u.contests)
            for u, a in zip(contestants, alive, strict=True)
        ]
    rivals = contestants if update.challengers is None else units(update.challengers)

    def whole(found: list[Any]) -> Any:  # a tree like `params`, with `None` where nothing is pruned
        entries = dict(zip(pruned, found, strict=True))
        return treedef.unflatten([entries.get(i) for i in range(len(before))])

    sparsity = method.schedule.sparsity(step)
    allocated = masks_lib.beside(params, method.allocation(params, whole(contestants), sparsity))
    keep = [k if isinstance(k := allocated[i], Keep) else Keep(k) for i in pruned]
    after = update.select(alive, contestants, rivals, keep, step)
    found = [pattern.from_groups(a, shape) for a, shape in zip(after, shapes, strict=True)]
    leaves = jax.tree.leaves(params)
    return whole([_placed(mask, leaves[i]) for mask, i in zip(found, pruned, strict=True)])


def _placed(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    """The mask where its leaf is, on an explicit mesh; elsewhere the compiler sees to it."""
    sharding = jax.typeof(leaf).sharding
    return jax.sharding.reshard(mask, sharding) if sharding.mesh.explicit_axes else mask


def _living_first(units: Units, alive: jax.Array) -> Units:
    """Ranks all living units, those without a score too, above all dead ones."""
    scores = jnp.where(jnp.isnan(units.scores), -jnp.inf, units.scores)
    return Units(jnp.where(alive, scores, jnp.nan), units.axis)


def _scores(criterion: Criterion, params: Params, signals: dict[str, Any]) -> Any:
    scores = criterion(params, **signals)
    name = getattr(criterion, "__name__", "criterion")
    if jax.tree.structure(scores) != jax.tree.structure(params):
        raise ValueError(
            f"{name}: the scores are {jax.tree.structure(scores)}, but the parameters "
            f"{jax.tree.structure(params)}; return jax.tree.map(f, params, ...)."
        )
    for path, p, s in zip(
        masks_lib.paths(params), jax.tree.leaves(params), jax.tree.leaves(scores), strict=True
    ):
        if jnp.shape(s) != jnp.shape(p):
            raise ValueError(
                f"{name}: {path!r} has scores of the shape {jnp.shape(s)}, its weights {jnp.shape(p)}; "
                "give one score per weight (jnp.broadcast_to shares one among several)."
            )
    return scores


def _check_pattern(pattern: Pattern, params: Params, masks: Masks) -> None:
    pruned = jax.tree.leaves(jax.tree.map(lambda p, m: m is not None, params, masks))
    named = zip(masks_lib.paths(params), jax.tree.leaves(params), pruned, strict=True)
    wrong = [(path, pattern.check(jnp.shape(p))) for path, p, is_pruned in named if is_pruned]
    messages = [message.format(leaf=repr(path)) for path, message in wrong if message]
    if messages:
        more = f" (and {len(messages) - 1} more leaves)" if len(messages) > 1 else ""
        raise ValueError(messages[0] + more + ".")


def initial_masks(
    method: Method, params: Params, prunable: Prunable = None, key: jax.Array | None = None
) -> Masks:
    """Returns the masks that a training run with `method` starts from."""
    masks = masks_lib.make(params, prunable)
    _check_pattern(method.pattern, params, masks)
    if method.initial is None:
        return masks
    signals = {} if key is None else {"key": key}
    first = method._replace(criterion=method.initial, update=updates_lib.prune())
    choose = jax.jit(lambda params, masks, signals: next_masks(first, params, masks, 0, **signals))
    return choose(params, masks, signals)


def prune(
    params: Params,
    method: Method,
    *,
    prunable: Prunable = None,
    masks: Masks | None = None,
    key: jax.Array | None = None,
    **signals: Any,
) -> tuple[Params, Masks]:
    """Prunes once, outside training, to the sparsity that the method's schedule ends with.

    Args:
      params: tree of arrays.
      method: for instance `jaxprune.methods.magnitude(sparsity=0.9)`.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      masks: masks to start from; `None`: everything is alive.
      key: PRNG key, for criteria that draw.
      **signals: what the criterion needs, such as `grads`.

    Returns:
      The parameters with exact zeros where pruned, and the masks.

    >>> from jaxprune import methods
    >>> pruned, masks = prune({"w": jnp.array([[1.0, -3.0]])}, methods.magnitude(sparsity=0.5))
    >>> pruned
    {'w': Array([[ 0., -3.]], dtype=float32)}
    """
    if masks is None:
        masks = masks_lib.make(params, prunable)
    else:
        masks_lib.validate(masks, params)
    if key is not None:
        signals["key"] = key
    masks = next_masks(method, params, masks_lib.unpack(masks), method.schedule.end, **signals)
    return masks_lib.apply(params, masks), masks
