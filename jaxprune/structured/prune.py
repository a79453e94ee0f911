"""Which units of a graph's groups to remove, as ordinary masks."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np

from jaxprune import checks, criteria
from jaxprune import masks as masks_lib
from jaxprune.calls import text
from jaxprune.coupling import Group, Normalize, Over, Reduce
from jaxprune.structured.costs import Cost, flops
from jaxprune.structured.given import check_graph
from jaxprune.structured.graph import Graph
from jaxprune.structured.host import to_device
from jaxprune.structured.pattern import Inexact, Only, coupled, matches, without_shared_axes
from jaxprune.structured.removal import removal
from jaxprune.structured.scores import by_path
from jaxprune.types import Criterion, Masks, Params

__all__ = ["prune"]

Scope = Literal["local", "global", "isomorphic"]
_MAGNITUDE = criteria.magnitude
_STEPS = 20  # halvings of the interval of sparsities: finer than one unit of a million


def prune(
    graph: Graph,
    params: Params,
    *,
    sparsity: float | Mapping[str, float] | None = None,
    budget: float | None = None,
    cost: Cost = flops,
    criterion: Criterion = _MAGNITUDE,
    reduce: Reduce = "sum",
    normalize: Normalize | None = None,
    over: Over = "all",
    scope: Scope = "local",
    only: Only = None,
    exclude: Only = None,
    round_to: int = 1,
    cap: float = 1.0,
    masks: Masks | None = None,
    inexact: Inexact = "skip",
    **signals: Any,
) -> Masks:
    """Removes whole units: the masks of what is left.

    Where groups share an axis (heads, and the channels of each head) only the one with the most units is
    pruned, unless `only` names others, or a mapping of sparsities names each by itself. Each group keeps at
    least one unit.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      sparsity: fraction of the units removed; a number, or numbers by group for those groups alone: by its
        name, or by a regular expression that is searched in the members' `path[axis]`.
      budget: instead of a sparsity, the fraction of the dense function's cost that may be left; the sparsity
        is then the least that meets it.
      cost: what the budget counts: `structured.flops`, `structured.parameters`, `structured.latency(...)`, or
        any function (graph, params, masks) -> number.
      criterion: of weights.
      reduce, over: how the scores of a unit's weights become one number (see `coupled`).
      normalize: what the scores of a group are divided by; `None`: by their mean where groups are compared.
      scope: "local": each group loses this fraction; "global": the worst units of all go; "isomorphic": the
        worst of those groups that have the same structure, so that unlike ones are never compared.
      only: the groups meant: a regular expression, searched in the members' `path[axis]`, or a predicate of
        groups; `None`: all.
      exclude: groups that stay whole, likewise.
      round_to: survivors of a group are a multiple of this, rounded up.
      cap: the largest fraction of its units that a group may lose where groups are compared.
      masks: of units that are removed already: they count among those removed, and stay so.
      inexact: groups that are not exact (`Group.exact`) are left out, "skip", or pruned all the same,
        "allow": the small function may then differ from the masked one.
      **signals: what the criterion reads.

    Returns:
      bool arrays at the leaves that lose something, `None` elsewhere: for `jaxprune.masks.apply`,
      `jaxprune.fixed` and `shrink`.

    References:
      Fang, Ma, Mi, Bi & Wang, "Isomorphic Pruning for Vision Models" (2024).
    """
    check_graph("structured.prune", graph, params)
    if (sparsity is None) == (budget is None):
        raise ValueError("structured.prune: one of sparsity= and budget= is needed.")
    if scope not in ("local", "global", "isomorphic"):
        raise ValueError(
            f"structured.prune(scope={scope!r}): 'local', 'global' or 'isomorphic' is needed."
        )
    if round_to < 1:
        raise ValueError(f"structured.prune(round_to={round_to}): at least 1 is needed.")
    if isinstance(sparsity, Mapping):
        _check_rates(graph, sparsity, inexact)
    if budget is not None and not 0 < budget <= 1:
        raise ValueError(f"structured.prune(budget={budget}): a fraction in (0, 1] is needed.")
    if not 0 < cap <= 1:
        raise ValueError(f"structured.prune(cap={cap}): a fraction in (0, 1] is needed.")
    normalize = normalize or ("none" if scope == "local" else "mean")
    if isinstance(sparsity, Mapping):
        only = _named(graph, sparsity, only, exclude, inexact)
    pattern = coupled(
        graph,
        only=only,
        exclude=exclude,
        reduce=reduce,
        normalize=normalize,
        over=over,
        inexact=inexact,
    )
    found = pattern.units(by_path(criterion, graph, params, signals))
    _check_numbers(criterion, pattern.groups, found)
    if masks is not None:
        gone = removal(graph, masks).classes
        pairs = zip(pattern.groups, found, strict=True)
        found = [np.where(gone[group.units], -np.inf, own) for group, own in pairs]
    pools = _pools(pattern.groups, scope)

    def alive_at(sparsity: float | Mapping[str, float]) -> list[np.ndarray]:
        rates = [_rate(group, sparsity) for group in pattern.groups]
        return _survivors(found, rates, pools, round_to, cap if scope != "local" else 1.0)

    def masks_of(alive: list[np.ndarray]) -> Masks:
        return _tree(graph, _both(pattern.masks(alive), graph, masks))

    if sparsity is not None:
        return masks_of(alive_at(sparsity))
    assert budget is not None
    cost_of = lambda alive: cost(graph, params, masks_of(alive))
    return masks_of(_within_budget(alive_at, cost_of, budget))


def _check_numbers(criterion: Criterion, groups: tuple[Group, ...], scores: list[Any]) -> None:
    """Refuses units without a score: NaN is no order."""
    for group, of_units in zip(groups, scores, strict=True):
        if count := int(np.isnan(of_units).sum()):
            raise ValueError(
                f"structured.prune: {count} of the {group.size} units of the group {group.name!r} have the "
                f"score NaN by {text(criterion)}; look for NaN in the weights and in the signals, or leave "
                "the group out (exclude=)."
            )


def _tree(graph: Graph, by_path: Mapping[str, Any]) -> Masks:
    """A tree like the parameters, with `None` where nothing is lost."""
    lost = {path: mask for path, mask in by_path.items() if not mask.all()}
    masks = dict(zip(lost, to_device(list(lost.values())), strict=True))
    return jax.tree.structure(graph.params).unflatten([masks.get(path) for path in graph.paths])


def _check_rates(graph: Graph, sparsity: Mapping[str, float], inexact: Inexact) -> None:
    """Refuses expressions that mean no group, or none that is taken, and rates that remove nothing."""
    for expression, rate in sparsity.items():
        meant = [group for group in graph.groups if matches(group, expression)]
        if not meant:
            raise ValueError(
                f"structured.prune(sparsity={dict(sparsity)}): no group is meant by {expression!r}.\n"
                f"{graph.summary()}"
            )
        if rate and inexact == "skip" and not any(group.exact for group in meant):
            raise ValueError(
                f"structured.prune(sparsity={dict(sparsity)}): {expression!r} means {meant[0].name!r}, which "
                f"is not exact ({meant[0].reason}); say inexact='allow' to prune it all the same."
            )
    if not any(sparsity.values()):
        raise ValueError(f"structured.prune(sparsity={dict(sparsity)}): nothing is to be removed.")


def _both(by_path: dict[str, Any], graph: Graph, masks: Masks | None) -> dict[str, Any]:
    """Masks by path, and those of what was removed before."""
    if masks is None:
        return by_path
    before = masks_lib.beside(graph.params, masks_lib.unpack(masks))
    for path, mask in zip(graph.paths, before, strict=True):
        if mask is not None:
            by_path[path] = by_path.get(path, True) & np.asarray(mask)
    return by_path


def _named(
    graph: Graph, sparsity: Mapping[str, float], only: Only, exclude: Only, inexact: Inexact
) -> Callable[[Group], bool]:
    """The groups that a mapping of sparsities means, as a predicate.

    Of those that share an axis and are meant by one entry, the one with the most units alone.
    """
    by_entry: dict[str | None, list[Group]] = {}
    for group in graph.groups:
        meant = (only is None or matches(group, only)) and not (exclude and matches(group, exclude))
        if meant and _rate(group, sparsity) and (group.exact or inexact == "allow"):
            by_entry.setdefault(_entry(group, sparsity), []).append(group)
    apart = without_shared_axes if only is None else list
    names = {group.name for own in by_entry.values() for group in apart(own)}
    return lambda group: group.name in names


def _entry(group: Group, sparsity: Mapping[str, float]) -> str | None:
    """The key of a mapping that means a group: its name, or the first expression that is found."""
    if group.name in sparsity:
        return group.name
    hits = (key for key in sparsity if any(re.search(key, str(m)) for m in group.members))
    return next(hits, None)


def _rate(group: Group, sparsity: float | Mapping[str, float]) -> float:
    rate = sparsity
    if isinstance(sparsity, Mapping):
        entry = _entry(group, sparsity)
        rate = 0.0 if entry is None else sparsity[entry]
    checks.check("structured.prune", sparsity=(rate, checks.NUMBER))
    if not 0 <= rate < 1:  # type: ignore[operator]
        raise ValueError(f"structured.prune(sparsity={sparsity}): fractions in [0, 1) are needed.")
    return rate  # type: ignore[return-value]


def _pools(groups: tuple[Group, ...], scope: Scope) -> list[list[int]]:
    """Numbers of the groups whose units compete."""
    if scope == "global":
        return [list(range(len(groups)))]
    pools: dict[Any, list[int]] = {}
    for i, group in enumerate(groups):
        pools.setdefault(i if scope == "local" else _structure(group), []).append(i)
    return list(pools.values())


def _structure(group: Group) -> Any:
    """What isomorphic groups have in common: the kinds of parameters, and along which axes they run."""
    name = lambda path: next((n for n in reversed(path.split("/")) if not n.isdigit()), "")
    return tuple(sorted((name(m.path), len(m.shape), m.axis, m.enters) for m in group.members))


def _survivors(
    found: list[np.ndarray],
    rates: list[float],
    pools: list[list[int]],
    round_to: int,
    cap: float,
) -> list[np.ndarray]:
    """Which units of each group live; equal scores in the order of their units."""
    alive = [np.ones(len(own), bool) for own in found]
    for pool in pools:
        everything = np.concatenate([found[i] for i in pool])
        total = _left([len(found[i]) for i in pool], [rates[i] for i in pool])
        best = np.zeros(len(everything), bool)
        safe = np.concatenate([_safe(found[i], cap) for i in pool])
        best[np.lexsort((-everything, ~safe))[: max(total, int(safe.sum()))]] = True
        cuts = np.cumsum([len(found[i]) for i in pool])[:-1]
        for i, own in zip(pool, np.split(best, cuts), strict=True):
            left = min(len(own), -(-max(int(own.sum()), 1) // round_to) * round_to)
            alive[i] = np.zeros(len(own), bool)
            alive[i][np.argsort(-found[i], kind="stable")[:left]] = True
    return alive


def _safe(scores: np.ndarray, cap: float) -> np.ndarray:
    """Which units of a group stay, as it loses no more than a fraction of them."""
    count = len(scores) - math.floor(cap * len(scores) + 1e-9)
    found = np.zeros(len(scores), bool)
    found[np.argsort(-scores, kind="stable")[:count]] = True
    return found


def _left(sizes: list[int], rates: list[float]) -> int:
    """As `jaxprune.allocation.survivors` of the whole pool, in Python's integers."""
    removed = sum(n * round(rate * 10**7) for n, rate in zip(sizes, rates, strict=True))
    return sum(sizes) - (removed + 5 * 10**6) // 10**7


def _within_budget(
    alive_at: Callable[[float], list[np.ndarray]],
    cost_of: Callable[[list[np.ndarray]], float],
    budget: float,
) -> list[np.ndarray]:
    """The units that live at the least sparsity whose cost is within a fraction of that of none."""
    known: dict[bytes, float] = {}

    def cost(alive: list[np.ndarray]) -> float:
        units = np.concatenate(alive).tobytes()
        if units not in known:  # a latency takes a compilation, and is not the same twice
            known[units] = cost_of(alive)
        return known[units]

    low, high = 0.0, 1 - 1e-6
    whole, best = alive_at(low), alive_at(high)
    dense = cost(whole)
    if cost(best) > budget * dense:
        raise ValueError(
            f"structured.prune(budget={budget}): with one unit left in each group {cost(best) / dense:.3g} "
            "of the dense function's cost remains; more groups (only=), or a larger budget is needed."
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = alive_at(middle)
        if cost(found) <= budget * dense:
            high, best = middle, found
        else:
            low = middle
    return best if budget < 1 else whole
