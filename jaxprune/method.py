"""A method is five concepts together; different leaves may have different ones."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from jaxprune import allocation as allocations
from jaxprune import checks, parts, patterns, trees
from jaxprune import masks as masks_lib
from jaxprune import signals as signals_lib
from jaxprune import updates as updates_lib
from jaxprune.calls import Part, makes, text, uncalled
from jaxprune.coupling import AnyPattern
from jaxprune.types import AnyAllocation, Backward, Criterion, Masks, Params, Schedule, Update

__all__ = ["METHOD", "Method", "Partition", "by_number", "by_part", "memories_of", "partition"]

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
    return by_number(method, params, masks, lambda i, share: change(method.parts[i], share))


def by_number(
    method: Method | Partition, params: Params, masks: Masks, change: Callable[[int, Masks], Masks]
) -> Masks:
    """`by_part` for a function of the index of a part, instead of the part."""
    if trees.is_placeholder(params):
        return masks
    owners, treedef = method.owners(params), jax.tree.structure(params)
    before = masks_lib.beside(params, masks)
    merged: list[Any] = [None] * len(before)
    for number in range(len(method.parts)):
        own = [owner == number for owner in owners]
        share = [m if mine else None for m, mine in zip(before, own, strict=True)]
        if any(m is not None for m in share):
            after = masks_lib.beside(params, change(number, treedef.unflatten(share)))
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


def memories_of(method: Method | Partition) -> dict[str, signals_lib.Memory]:
    """The memories that the criteria of a method read, by keyword."""
    criteria = [c for part in method.parts for c in (part.criterion, part.update.grow_criterion)]
    return signals_lib.needed(criteria)
