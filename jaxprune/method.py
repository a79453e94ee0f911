"""Methods: criterion, pattern, allocation, schedule and update together; a partition has several of them."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from jaxprune import allocation as allocations
from jaxprune import checks, parts, patterns, trees
from jaxprune import masks as masks_lib
from jaxprune import signals as signals_lib
from jaxprune import updates as updates_lib
from jaxprune.calls import Part, makes, text, uncalled
from jaxprune.types import AnyAllocation, Backward, Criterion, Masks, Params, Schedule, Update
from jaxprune.units.coupling import AnyPattern

__all__ = ["METHOD", "Method", "Partition", "by_index", "by_member", "memory_rules_of", "partition"]

_UNSTRUCTURED = patterns.unstructured()
_UNIFORM = allocations.uniform()
_PRUNE = updates_lib.prune()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Method(Part):
    """A pruning method: criterion · pattern · allocation · schedule · update.

    Defaults: single weights compete within their layer (`patterns.unstructured()`), each layer loses the same
    fraction (`allocation.uniform()`), removed weights do not return (`updates.prune()`), and training starts
    dense. Two methods are equal if their parts are equal, whatever call made them.

    Attributes:
      criterion: scores each weight.
      schedule: at which updates masks change, and the fraction of weights removed by then.
      pattern: which weights are removed together and which compete.
      allocation: how many units each layer keeps.
      update: how an old mask becomes a new one.
      initial: criterion of the first masks, for a method that is sparse from the start; `None`: dense.
      backward: for a method of `straight_through`, which gradients the weights off the masks get; `None`:
        the method is for `sparsify`, and they are zero.
      made_by: the call of the factory that made the method, such as `methods.gmp(...)`; it is set there.

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
        """Returns what two equal methods have in common: their fields."""
        return self.values()

    @property
    def end(self) -> int:
        """The last step at which masks can change, in updates."""
        return self.schedule.end

    @property
    def parts(self) -> "tuple[Method, ...]":
        """The methods that this one consists of: itself."""
        return (self,)

    @property
    def straight_through(self) -> bool:
        """Whether the method is for `straight_through`, where weights off the masks stay what they are."""
        return self.backward is not None

    def owners(self, params: Params) -> list[int | None]:
        """Returns, per leaf of `params`, the index of the member that it belongs to."""
        return [0] * len(jax.tree.leaves(params))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Partition(Part):
    """Several methods for one tree; see `partition`.

    Attributes:
      methods: (regular expression, method) pairs; the first that matches a path has the leaf.
    """

    methods: tuple[tuple[str, Method], ...]

    def identity(self) -> Any:
        """Returns what two equal partitions have in common: their fields."""
        return self.values()

    @property
    def end(self) -> int:
        """The last step at which masks can change, in updates."""
        return max(member.end for member in self.parts)

    @property
    def parts(self) -> tuple[Method, ...]:
        """The methods that this one consists of."""
        return tuple(method for _, method in self.methods)

    @property
    def straight_through(self) -> bool:
        """Whether the methods are for `straight_through`: all are, or none is."""
        return self.parts[0].straight_through

    def owners(self, params: Params) -> list[int | None]:
        """Returns, per leaf of `params`, the index of its member; `None` where none matches: it is dense."""
        paths = masks_lib.paths(params)
        expressions = [expression for expression, _ in self.methods]
        for expression in expressions:
            if not any(re.search(expression, path) for path in paths):
                raise ValueError(f"partition: {expression!r} matches none of the leaves {paths}.")
        return [_first_match(expressions, path) for path in paths]


def _first_match(expressions: Sequence[str], path: str) -> int | None:
    """Returns the index of the first regular expression that is found in a path, or `None`."""
    matches = (i for i, expression in enumerate(expressions) if re.search(expression, path))
    return next(matches, None)


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
_MEMBER = checks.Kind("a method", lambda value: isinstance(value, Method), _method_remedy)


def by_member(
    method: Method | Partition,
    params: Params,
    masks: Masks,
    change: Callable[[Method, Masks], Masks],
) -> Masks:
    """Applies a function to each method's share of the masks, and joins what it returns.

    Args:
      method: one, or several.
      params: tree of arrays.
      masks: bool arrays, `None` at leaves that are never pruned.
      change: (method, masks of its leaves, `None` at others) -> new masks.

    Returns:
      The new masks; those of leaves that belong to no method are dropped.
    """
    return by_index(method, params, masks, lambda i, own_masks: change(method.parts[i], own_masks))


def by_index(
    method: Method | Partition, params: Params, masks: Masks, change: Callable[[int, Masks], Masks]
) -> Masks:
    """Applies a function of the index of a member, instead of the member, as `by_member` does."""
    if trees.is_placeholder(params):
        return masks
    owners = method.owners(params)
    treedef = jax.tree.structure(params)
    old_masks = masks_lib.beside(params, masks)
    merged: list[Any] = [None] * len(old_masks)
    for member_index in range(len(method.parts)):
        is_own = [owner == member_index for owner in owners]
        own_masks = [mask if own else None for mask, own in zip(old_masks, is_own, strict=True)]
        if any(mask is not None for mask in own_masks):
            new_masks = masks_lib.beside(params, change(member_index, treedef.unflatten(own_masks)))
            rows = zip(new_masks, merged, is_own, strict=True)
            merged = [new if own else other for new, other, own in rows]
    return treedef.unflatten(merged)


@parts.factory
def partition(methods: Mapping[str, Method] | Iterable[tuple[str, Method]]) -> Partition:
    """Returns different methods for different leaves of one tree, under one optimizer.

    Each method sees its own leaves only: a global budget is shared among these. Leaves that no expression
    matches stay dense.

    Args:
      methods: method by regular expression, searched in the path of a leaf, or pairs of both; the first
        match counts.

    Returns:
      A `Partition`, which `sparsify`, `straight_through`, `lottery_ticket` and `prune` accept as a method.

    Raises:
      ValueError: if there are no methods, a key is not a regular expression or occurs twice, or only some of
        the methods are for `straight_through`.
      TypeError: if `methods` is of another kind, or one of them is no method.

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
        checks.check("partition", **{f"methods[{expression!r}]": (method, _MEMBER)})
    straight_through = [expression for expression, method in pairs if method.straight_through]
    if 0 < len(straight_through) < len(pairs):
        raise ValueError(
            f"partition: {straight_through} train straight through the masks, the others "
            "on them; one optimizer can do one of the two."
        )
    return Partition(pairs)


def _pairs(methods: Any) -> tuple[Any, ...]:
    items = methods.items() if isinstance(methods, Mapping) else methods
    pairs = tuple(items) if isinstance(items, Iterable) and not isinstance(items, str) else None
    if pairs is None or not all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs
    ):
        raise TypeError(
            f"partition(methods={text(methods)}): a dict or pairs are needed, of a regular expression and a "
            "method each."
        )
    return pairs


def memory_rules_of(method: Method | Partition) -> dict[str, signals_lib.Memory]:
    """Returns the accumulators that the criteria of a method read, by the keyword of their signal."""
    criteria = [
        criterion
        for member in method.parts
        for criterion in (member.criterion, member.update.grow_criterion)
    ]
    return signals_lib.needed(criteria)
