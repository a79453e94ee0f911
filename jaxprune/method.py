"""A method is five concepts together; `next_masks` is the one place where they meet."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxprune import allocation as allocations
from jaxprune import checks, parts, patterns, trees
from jaxprune import masks as masks_lib
from jaxprune import signals as signals_lib
from jaxprune import updates as updates_lib
from jaxprune.calls import Part, makes, text, uncalled
from jaxprune.contests import contests
from jaxprune.coupling import AnyPattern, Coupled
from jaxprune.fit import check_coupled, check_fit, scores_of
from jaxprune.kernel_axes import AxesTree, of_leaves
from jaxprune.masks import Prunable
from jaxprune.types import (
    AnyAllocation,
    Axes,
    Backward,
    Criterion,
    Masks,
    Params,
    Schedule,
    Step,
    Units,
    Update,
)

__all__ = [
    "Method",
    "Partition",
    "by_part",
    "full_masks",
    "initial_masks",
    "next_masks",
    "partition",
    "prune",
    "remembered",
]

_UNSTRUCTURED = patterns.unstructured()
_UNIFORM = allocations.uniform()
_PRUNE = updates_lib.prune()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Method(Part):
    """How masks come about: criterion · pattern · allocation · schedule · update.

    Two methods are equal if their parts are, whatever call put these together.

    Attributes:
      criterion: what each weight is worth.
      schedule: when masks change and how sparse they must be by then.
      pattern: what dies together and who competes.
      allocation: who gets how much of the budget.
      update: how an old mask becomes a new one.
      initial: criterion of the first masks of a method that is sparse from the start; `None`: dense.
      backward: what reaches the weights off the masks of a method that trains straight through them
        (`straight_through`); `None`: they are zero (`sparsify`).

    >>> from jaxprune import criteria, schedules
    >>> gradual = schedules.cubic(sparsity=0.9, begin=0, end=100, every=10)
    >>> Method(criteria.magnitude, schedule=gradual, pattern=patterns.groups(4))
    Method(magnitude, schedule=cubic(sparsity=0.9, begin=0, end=100, every=10), pattern=groups(4))
    """

    criterion: Criterion
    _: dataclasses.KW_ONLY
    schedule: Schedule
    pattern: AnyPattern = _UNSTRUCTURED
    allocation: AnyAllocation = _UNIFORM
    update: Update = _PRUNE
    initial: Criterion | None = None
    backward: Backward | None = None

    def __post_init__(self) -> None:
        """Refuses parts of the wrong kind."""
        checks.check(
            "Method",
            criterion=(self.criterion, parts.CRITERION),
            schedule=(self.schedule, parts.SCHEDULE),
            pattern=(self.pattern, parts.PATTERN),
            allocation=(self.allocation, parts.ALLOCATION),
            update=(self.update, parts.UPDATE),
            initial=(self.initial, checks.optional(parts.CRITERION)),
            backward=(self.backward, checks.optional(parts.BACKWARD)),
        )

    def identity(self) -> Any:
        """What is the same of two equal methods."""
        return self.values()

    @property
    def end(self) -> int:
        """The last step at which masks can change."""
        return self.schedule.end

    @property
    def parts(self) -> "tuple[Method, ...]":
        """The methods that this one consists of: itself."""
        return (self,)

    @property
    def straight_through(self) -> bool:
        """Whether it is for `straight_through`, where weights off the masks stay what they are."""
        return self.backward is not None

    def owners(self, params: Params) -> list[int | None]:
        """Per leaf of `params`, the number of the part that it belongs to."""
        return [0] * len(jax.tree.leaves(params))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Partition(Part):
    """Several methods for one tree; see `partition`.

    Attributes:
      methods: (regular expression, method) pairs; the first that matches a path has the leaf.
    """

    methods: tuple[tuple[str, Method], ...]

    def identity(self) -> Any:
        """What is the same of two equal partitions."""
        return self.values()

    @property
    def end(self) -> int:
        """The last step at which masks can change."""
        return max(part.end for part in self.parts)

    @property
    def parts(self) -> tuple[Method, ...]:
        """The methods that this one consists of."""
        return tuple(method for _, method in self.methods)

    @property
    def straight_through(self) -> bool:
        """Whether it is for `straight_through`; all parts are, or none is."""
        return self.parts[0].straight_through

    def owners(self, params: Params) -> list[int | None]:
        """Per leaf of `params`, the number of the part that it belongs to; `None`: it stays dense."""
        names = masks_lib.paths(params)
        for pattern, _ in self.methods:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(f"partition: {pattern!r} matches none of the leaves {names}.")
        first = lambda n: (i for i, (p, _) in enumerate(self.methods) if re.search(p, n))
        return [next(first(name), None) for name in names]


def _method_remedy(value: Any) -> str:
    if makes(value) is Method:
        return f"call it: {uncalled(value)}"
    if isinstance(value, Partition):
        return "write the expressions of one partition into the other"
    if isinstance(value, Mapping):
        return "for one that has several, write jaxprune.partition({expression: method})"
    if checks.is_function(value) and makes(value) is None:
        return f"of a criterion, jaxprune.Method({text(value)}, schedule=...) makes one"
    return "such as jaxprune.methods.magnitude(sparsity=0.9)"


METHOD = checks.Kind(
    "a method", lambda value: isinstance(value, Method | Partition), _method_remedy
)
_PART = checks.Kind("a method", lambda value: isinstance(value, Method), _method_remedy)


def by_part(
    method: Method | Partition,
    params: Params,
    masks: Masks,
    change: Callable[[Method, Masks], Masks],
) -> Masks:
    """Returns what `change` makes of each method's share of the masks; masks of no method are dropped."""
    if trees.is_placeholder(params):
        return masks
    owners, treedef = method.owners(params), jax.tree.structure(params)
    before = masks_lib.beside(params, masks)
    merged: list[Any] = [None] * len(before)
    for number, part in enumerate(method.parts):
        own = [owner == number for owner in owners]
        share = [m if mine else None for m, mine in zip(before, own, strict=True)]
        if any(m is not None for m in share):
            after = masks_lib.beside(params, change(part, treedef.unflatten(share)))
            merged = [n if mine else m for n, m, mine in zip(after, merged, own, strict=True)]
    return treedef.unflatten(merged)


@parts.factory
def partition(methods: Mapping[str, Method] | Iterable[tuple[str, Method]]) -> Partition:
    """Different methods for different leaves of one tree, under one optimizer.

    Each method sees its own leaves only: a global budget is shared among those. Leaves that nothing
    matches stay dense.

    Args:
      methods: method by regular expression, searched in the path of a leaf, or pairs of both; the first
        match counts.

    Returns:
      What `sparsify`, `straight_through`, `lottery_ticket` and `prune` take for a method.

    >>> from jaxprune import methods
    >>> hybrid = partition({
    ...     "Conv": methods.rigl(sparsity=0.8, every=100, end=1000),
    ...     "Dense": methods.gmp(sparsity=0.5, begin=0, end=1000, every=100, pattern=patterns.groups(4)),
    ... })
    """
    pairs = _pairs(methods)
    expressions = [expression for expression, _ in pairs]
    if not pairs:
        raise ValueError("partition: no methods; give {regular expression: method}.")
    if len(set(expressions)) < len(expressions):
        raise ValueError(f"partition: an expression is there twice in {expressions}.")
    for expression, method in pairs:
        checks.expression("partition", expression)
        checks.check("partition", **{f"methods[{expression!r}]": (method, _PART)})
    through = [expression for expression, method in pairs if method.straight_through]
    if 0 < len(through) < len(pairs):
        raise ValueError(
            f"partition: {through} train straight through the masks, the others "
            "on them; one optimizer can do one of the two."
        )
    return Partition(pairs)


def _pairs(methods: Any) -> tuple[Any, ...]:
    pairs = methods.items() if isinstance(methods, Mapping) else methods
    pairs = tuple(pairs) if isinstance(pairs, Iterable) and not isinstance(pairs, str) else None
    if pairs is None or not all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs
    ):
        raise TypeError(
            f"partition(methods={text(methods)}): a dict or pairs are needed, of a regular expression and a "
            "method each."
        )
    return pairs


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

    Raises:
      ValueError: if a leaf does not fit the pattern, or the scores do not fit the parameters.
      TypeError: if an argument is of the wrong kind, or a signal is missing.
    """
    checks.check("next_masks", method=(method, METHOD), params=(params, checks.TREE))
    masks_lib.check_order("next_masks", masks, params)
    masks_lib.validate(masks, params)
    params = trees.plain(params)
    own = of_leaves(axes, params)
    choose = lambda part, share: _next_masks(part, params, share, step, of_the_living, own, signals)
    return by_part(method, params, masks, choose)


def _next_masks(
    method: Method,
    params: Params,
    masks: Masks,
    step: Step,
    of_the_living: bool,
    axes: Sequence[Axes | None],
    signals: dict[str, Any],
) -> Masks:
    check_fit(method.pattern, method.schedule, method.update, params, masks, axes)
    rivalry, update = contests(method.pattern, params, masks, axes), method.update

    def units(criterion: Criterion) -> list[Units]:
        return rivalry.units(scores_of(criterion, params, signals, rivalry.scored, axes))

    contestants = units(method.criterion)
    if not update.revives:
        pairs = zip(contestants, rivalry.alive, strict=True)
        contestants = [_living_first(unit, alive) for unit, alive in pairs]
    if of_the_living:
        contestants = [
            dataclasses.replace(u, competing=_living(u, a))
            for u, a in zip(contestants, rivalry.alive, strict=True)
        ]
    rivals = contestants if update.challengers is None else units(update.challengers)
    sparsity = method.schedule.sparsity(step)
    keep = rivalry.allocated(method.allocation, contestants, sparsity)
    after = update.select(rivalry.alive, contestants, rivals, keep, step)
    leaves = jax.tree.leaves(params)
    found = rivalry.masks(after, contestants)
    placed = [None if m is None else _placed(m, w) for m, w in zip(found, leaves, strict=True)]
    return jax.tree.structure(params).unflatten(placed)


def _placed(mask: jax.Array, leaf: jax.Array) -> jax.Array:
    """The mask where its leaf is, on an explicit mesh; elsewhere the compiler sees to it."""
    sharding = jax.typeof(leaf).sharding
    if sharding.mesh.explicit_axes:
        return jax.sharding.reshard(mask, sharding)
    concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)
    if concrete and not isinstance(mask, Tracer) and len(leaf.sharding.device_set) > 1:
        return jax.device_put(mask, leaf.sharding)
    return mask


def _living_first(units: Units, alive: jax.Array) -> Units:
    """Ranks all living units, those without a score too, above all dead ones."""
    scores = jnp.where(jnp.isnan(units.scores), -jnp.inf, units.scores)
    return dataclasses.replace(units, scores=jnp.where(alive, scores, jnp.nan))


def _living(units: Units, alive: jax.Array) -> jax.Array:
    """Per layer, how many units of a contest are alive, in the mean over its contests."""
    within = tuple(i for i in range(alive.ndim) if i not in units.layers)
    return jnp.sum(alive, within, dtype=jnp.int32) // units.contests


def initial_masks(
    method: Method | Partition,
    params: Params,
    prunable: Prunable = None,
    key: jax.Array | None = None,
    axes: AxesTree | None = None,
) -> Masks:
    """Returns the masks that a training run with `method` starts from."""
    if trees.is_placeholder(params):
        return params
    signals = {} if key is None else {"key": key}
    own = of_leaves(axes, params)

    def first(part: Method, masks: Masks) -> Masks:
        check_fit(part.pattern, part.schedule, part.update, params, masks, own)
        if part.initial is None:
            return masks
        sparse = dataclasses.replace(part, criterion=part.initial, update=updates_lib.prune())
        choose = jax.jit(
            lambda params, masks, signals: next_masks(
                sparse, params, masks, 0, axes=axes, **signals
            )
        )
        return choose(params, masks, signals)

    return by_part(method, params, full_masks(method, params, prunable, axes), first)


def full_masks(
    method: Method | Partition, params: Params, prunable: Prunable, axes: AxesTree | None = None
) -> Masks:
    """Returns the masks that keep everything; refuses a partition with a part that nothing is left for."""
    coupled = [part.pattern for part in method.parts if isinstance(part.pattern, Coupled)]
    if coupled:
        return _of_coupled(coupled[0], method, params, prunable)
    masks = masks_lib.make(params, prunable, axes=axes)
    pairs = zip(method.owners(params), masks_lib.beside(params, masks), strict=True)
    busy = {owner for owner, mask in pairs if mask is not None}
    if isinstance(method, Partition):
        for number, (pattern, _) in enumerate(method.methods):
            if number not in busy:
                raise ValueError(
                    f"partition: {pattern!r} has nothing to prune; what it matches is not prunable, or an "
                    "expression before it has it."
                )
    return masks


def _of_coupled(
    pattern: Coupled, method: Method | Partition, params: Params, prunable: Prunable
) -> Masks:
    """Full masks of all that units run along, biases and scales too."""
    if isinstance(method, Partition):
        raise ValueError(
            "partition: coupled units run through leaves of several parts; give the pattern to a method of "
            "its own, and restrict it by structured.coupled(only=)."
        )
    if prunable is not None:
        raise ValueError(
            f"prunable={prunable!r}: with coupled units, structured.coupled(only=) says what may be pruned."
        )
    check_coupled(pattern, params)
    covered = set(pattern.covered(params))
    named = zip(masks_lib.paths(params), jax.tree.leaves(params), strict=True)
    leaves = [jnp.ones_like(w, dtype=bool) if path in covered else None for path, w in named]
    return jax.tree.structure(params).unflatten(leaves)


def remembered(method: Method | Partition) -> dict[str, signals_lib.Memory]:
    """The memories that the criteria of a method read, by keyword."""
    criteria = [c for part in method.parts for c in (part.criterion, part.update.challengers)]
    return signals_lib.needed(criteria)


def prune(
    params: Params,
    method: Method | Partition,
    *,
    prunable: Prunable = None,
    masks: Masks | None = None,
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
      key: PRNG key, for criteria that draw.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`,
        a tree beside `params`, or `jaxprune.Axes` by regular expression. Without it leaves of two axes are
        `[inputs, outputs]`, those of four are convolutions if their shape can be one's, and whatever depends
        on direction refuses others.
      **signals: what the criterion needs, such as `grads`.

    Returns:
      The parameters with exact zeros where pruned, and the masks.

    Raises:
      ValueError: if a leaf does not fit the pattern, it is not known which of its axes are inputs, or a
        filter matches nothing.
      TypeError: if an argument is of the wrong kind, or a signal is missing that the criterion reads.

    >>> from jaxprune import methods
    >>> pruned, masks = prune({"w": jnp.array([[1.0, -3.0]])}, methods.magnitude(sparsity=0.5))
    >>> pruned
    {'w': Array([[ 0., -3.]], dtype=float32)}
    """
    checks.check("prune", params=(params, checks.TREE), method=(method, METHOD))
    checks.check("prune", key=(key, checks.optional(checks.KEY)))
    theirs, params = params, trees.plain(params)
    if masks is None:
        masks = full_masks(method, params, prunable, axes)
    else:
        masks_lib.validate(masks, params)
    if key is not None:
        signals["key"] = key
    last = lambda part, share: next_masks(part, params, share, part.end, axes=axes, **signals)
    masks = by_part(method, params, masks_lib.unpack(masks), last)
    return masks_lib.apply(theirs, masks), masks
