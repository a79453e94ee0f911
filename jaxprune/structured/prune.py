"""Chooses the units of a graph's groups to remove, and returns ordinary masks."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np

from jaxprune import checks, criteria
from jaxprune import masks as masks_lib
from jaxprune.calls import text
from jaxprune.structured.costs import Cost, flops
from jaxprune.structured.graph.coupled import Inexact, Only, coupled, matches, without_shared_axes
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.structured.scores import by_path
from jaxprune.structured.shrinking.host import to_device
from jaxprune.structured.shrinking.removal import removal
from jaxprune.types import Criterion, Masks, Params
from jaxprune.units.coupling import Group, Normalize, Over, Reduce

__all__ = ["prune"]

Scope = Literal["local", "global", "isomorphic"]
_MAGNITUDE = criteria.magnitude
_HALVINGS = 20  # of the interval of sparsities: finer than one unit of a million


def prune(
    graph: Graph,
    params: Params,
    *,
    sparsity: float | Mapping[str, float] | None = None,
    budget: float | None = None,
    cost: Cost = flops,
    criterion: Criterion = _MAGNITUDE,
    reduce: Reduce = "sum",
    normalize: Normalize | Literal["auto"] = "auto",
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
    """Returns masks that remove whole units, those of the lowest scores.

    If groups share an axis (heads, and the channels of each head), only the one with the most units is
    pruned, unless `only` names others, or a mapping of sparsities names each by itself. Each group keeps at
    least one unit.

    Args:
      graph: of the function, from `trace`.
      params: tree of arrays, with the structure and shapes that were traced.
      sparsity: fraction of the units removed, in [0, 1): one number for all groups, or a mapping with numbers
        for some groups, by the group's name or by a regular expression that is searched in the members'
        `path[axis]`; the other groups keep all units.
      budget: instead of a sparsity, the fraction of the dense function's cost that may be left, in (0, 1];
        the lowest sparsity that meets it is used.
      cost: what the budget counts: `structured.flops`, `structured.parameters`, `structured.latency(...)`, or
        any function (graph, params, masks) -> number.
      criterion: gives scores of weights, higher = keep.
      reduce: how the scores of a unit's weights become one number: "sum", "mean", "max", "norm", "absolute"
        (see `coupled`).
      normalize: what the scores of a group are divided by: "none", "mean", "max", "sum", "norm"; "auto": by
        their mean where groups are compared, else by nothing.
      over: which slices of a unit count: "all", "outputs", "scales" (see `coupled`).
      scope: "local": each group loses this fraction; "global": the units of the lowest scores of all groups
        are removed; "isomorphic": those of the groups that have the same structure, so that unlike groups are
        never compared.
      only: which groups are pruned: a regular expression, searched in the members' `path[axis]`, or a
        predicate of groups; `None`: all.
      exclude: which groups keep all units, in the same form.
      round_to: the number of units that a group keeps is a multiple of this, rounded up.
      cap: the largest fraction of its units that a group may lose where groups are compared, in (0, 1].
      masks: earlier masks: the units that they remove stay removed, and count towards the sparsity.
      inexact: what happens to groups that are not exact (`Group.exact`): "skip" leaves them out; "allow"
        prunes them too, and the small function may then differ from the masked one.
      **signals: what the criterion reads.

    Returns:
      A tree like `params` for `shrink`, `jaxprune.masks.apply` and `jaxprune.fixed`: bool arrays at the
      leaves that lose something, `None` elsewhere.

    Raises:
      ValueError: if not exactly one of `sparsity` and `budget` is given, an argument is out of range, no
        group is selected, a score is NaN, or the budget cannot be met.

    References:
      Fang, Ma, Mi, Bi & Wang, "Isomorphic Pruning for Vision Models" (2024).

    >>> import jax.numpy as jnp
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.array([[1.0, 2.0]]), "out": jnp.array([[3.0], [5.0]])}
    >>> masks = prune(trace(fn, params, jnp.ones((1, 1))), params, sparsity=0.5)  # scores 1 + 3 and 2 + 5
    >>> masks["in"].tolist(), masks["out"].tolist()
    ([[False, True]], [[False], [True]])
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
        _check_sparsities(graph, sparsity, inexact)
    if budget is not None and not 0 < budget <= 1:
        raise ValueError(f"structured.prune(budget={budget}): a fraction in (0, 1] is needed.")
    if not 0 < cap <= 1:
        raise ValueError(f"structured.prune(cap={cap}): a fraction in (0, 1] is needed.")
    if normalize == "auto":
        normalize = "none" if scope == "local" else "mean"
    if isinstance(sparsity, Mapping):
        only = _meant_by(graph, sparsity, only, exclude, inexact)
    pattern = coupled(
        graph,
        only=only,
        exclude=exclude,
        reduce=reduce,
        normalize=normalize,
        over=over,
        inexact=inexact,
    )
    scores = pattern.units(by_path(criterion, graph, params, signals))
    _check_scores(criterion, pattern.groups, scores)
    if masks is not None:
        class_mask = removal(graph, masks).classes
        scores = [
            np.where(class_mask[group.units], -np.inf, group_scores)
            for group, group_scores in zip(pattern.groups, scores, strict=True)
        ]
    pools = _pools(pattern.groups, scope)

    def unit_masks_at(sparsity: float | Mapping[str, float]) -> list[np.ndarray]:
        sparsities = [_sparsity_of(group, sparsity) for group in pattern.groups]
        return _keep_best(scores, sparsities, pools, round_to, cap if scope != "local" else 1.0)

    def weight_masks(unit_masks: list[np.ndarray]) -> Masks:
        return _to_tree(graph, _with_earlier(pattern.masks(unit_masks), graph, masks))

    if sparsity is not None:
        return weight_masks(unit_masks_at(sparsity))
    assert budget is not None

    def cost_of(unit_masks: list[np.ndarray]) -> float:
        return cost(graph, params, weight_masks(unit_masks))

    return weight_masks(_meet_budget(unit_masks_at, cost_of, budget))


def _check_scores(criterion: Criterion, groups: tuple[Group, ...], scores: list[Any]) -> None:
    """Raises if a unit has the score NaN, which has no place in an order."""
    for group, group_scores in zip(groups, scores, strict=True):
        if count := int(np.isnan(group_scores).sum()):
            raise ValueError(
                f"structured.prune: {count} of the {group.size} units of the group {group.name!r} have the "
                f"score NaN by {text(criterion)}; look for NaN in the weights and in the signals, or leave "
                "the group out (exclude=)."
            )


def _to_tree(graph: Graph, mask_by_path: Mapping[str, Any]) -> Masks:
    """Returns a tree of masks like the parameters, with `None` where nothing is lost."""
    host_masks = {path: mask for path, mask in mask_by_path.items() if not mask.all()}
    masks = dict(zip(host_masks, to_device(list(host_masks.values())), strict=True))
    return jax.tree.structure(graph.params).unflatten([masks.get(path) for path in graph.paths])


def _check_sparsities(graph: Graph, sparsity: Mapping[str, float], inexact: Inexact) -> None:
    """Raises if an expression means no group, or no exact one, or if nothing is removed."""
    for expression, group_sparsity in sparsity.items():
        groups = [group for group in graph.groups if matches(group, expression)]
        if not groups:
            raise ValueError(
                f"structured.prune(sparsity={dict(sparsity)}): no group is meant by {expression!r}.\n"
                f"{graph.summary()}"
            )
        if group_sparsity and inexact == "skip" and not any(group.exact for group in groups):
            raise ValueError(
                f"structured.prune(sparsity={dict(sparsity)}): {expression!r} means {groups[0].name!r}, "
                f"which is not exact ({groups[0].reason}); say inexact='allow' to prune it all the same."
            )
    if not any(sparsity.values()):
        raise ValueError(f"structured.prune(sparsity={dict(sparsity)}): nothing is to be removed.")


def _with_earlier(
    mask_by_path: dict[str, Any], graph: Graph, masks: Masks | None
) -> dict[str, Any]:
    """Returns masks by path that also remove what earlier masks remove; `None`: there are none."""
    if masks is None:
        return mask_by_path
    earlier_masks = masks_lib.beside(graph.params, masks_lib.unpack(masks))
    for path, mask in zip(graph.paths, earlier_masks, strict=True):
        if mask is not None:
            mask_by_path[path] = mask_by_path.get(path, True) & np.asarray(mask)
    return mask_by_path


def _meant_by(
    graph: Graph, sparsity: Mapping[str, float], only: Only, exclude: Only, inexact: Inexact
) -> Callable[[Group], bool]:
    """Returns a predicate: a group is one that a mapping of sparsities means.

    Of groups that share an axis and are meant by one key, only the one with the most units is meant.
    """
    groups_by_key: dict[str | None, list[Group]] = {}
    for group in graph.groups:
        is_meant = (only is None or matches(group, only)) and not (
            exclude and matches(group, exclude)
        )
        if is_meant and _sparsity_of(group, sparsity) and (group.exact or inexact == "allow"):
            groups_by_key.setdefault(_key_of(group, sparsity), []).append(group)
    select = without_shared_axes if only is None else list
    names = {group.name for groups in groups_by_key.values() for group in select(groups)}
    return lambda group: group.name in names


def _key_of(group: Group, sparsity: Mapping[str, float]) -> str | None:
    """Returns the key of a mapping that means a group: its name, or else the first expression found."""
    if group.name in sparsity:
        return group.name
    matching_keys = (
        key for key in sparsity if any(re.search(key, str(member)) for member in group.members)
    )
    return next(matching_keys, None)


def _sparsity_of(group: Group, sparsity: float | Mapping[str, float]) -> float:
    """Returns the fraction of its units that a group loses."""
    fraction = sparsity
    if isinstance(sparsity, Mapping):
        key = _key_of(group, sparsity)
        fraction = 0.0 if key is None else sparsity[key]
    checks.check("structured.prune", sparsity=(fraction, checks.NUMBER))
    if not 0 <= fraction < 1:  # type: ignore[operator]
        raise ValueError(f"structured.prune(sparsity={sparsity}): fractions in [0, 1) are needed.")
    return fraction  # type: ignore[return-value]


def _pools(groups: tuple[Group, ...], scope: Scope) -> list[list[int]]:
    """Returns the pools: lists of indices of the groups whose units are compared."""
    if scope == "global":
        return [list(range(len(groups)))]
    pools: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        pools.setdefault(index if scope == "local" else _structure(group), []).append(index)
    return list(pools.values())


def _structure(group: Group) -> Any:
    """Returns what isomorphic groups have in common: kinds of parameters, and the axes of their units."""
    return tuple(
        sorted(
            (_last_word(member.path), len(member.shape), member.axis, member.is_input_axis)
            for member in group.members
        )
    )


def _last_word(path: str) -> str:
    """Returns the last name of a path that is no index."""
    return next((name for name in reversed(path.split("/")) if not name.isdigit()), "")


def _keep_best(
    scores: list[np.ndarray],
    sparsities: list[float],
    pools: list[list[int]],
    round_to: int,
    cap: float,
) -> list[np.ndarray]:
    """Returns for each group a boolean per unit: it is kept. Of equal scores the first units are kept.

    Args:
      scores: of each group's units.
      sparsities: of each group, the fraction of its units removed.
      pools: indices of groups whose units are compared; each group is in one pool.
      round_to: the number of units that a group keeps is a multiple of this, rounded up.
      cap: the largest fraction of its units that a group may lose.
    """
    unit_masks = [np.ones(len(group_scores), bool) for group_scores in scores]
    for pool in pools:
        pool_scores = np.concatenate([scores[index] for index in pool])
        keep_count = _survivor_count(
            [len(scores[index]) for index in pool], [sparsities[index] for index in pool]
        )
        pool_mask = np.zeros(len(pool_scores), bool)
        safe_mask = np.concatenate([_safe_units(scores[index], cap) for index in pool])
        order = np.lexsort((-pool_scores, ~safe_mask))  # safe units first, then by their scores
        pool_mask[order[: max(keep_count, int(safe_mask.sum()))]] = True
        group_ends = np.cumsum([len(scores[index]) for index in pool])[:-1]
        for index, group_mask in zip(pool, np.split(pool_mask, group_ends), strict=True):
            at_least_one = max(int(group_mask.sum()), 1)
            group_count = min(len(group_mask), -(-at_least_one // round_to) * round_to)
            unit_masks[index] = _top(scores[index], group_count)
    return unit_masks


def _safe_units(scores: np.ndarray, cap: float) -> np.ndarray:
    """Returns a boolean per unit of a group: it stays, as the group loses no more than a fraction."""
    return _top(scores, len(scores) - math.floor(cap * len(scores) + 1e-9))


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns a boolean per unit: it is one of the highest scores; of equal ones the first."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def _survivor_count(sizes: list[int], sparsities: list[float]) -> int:
    """Returns `jaxprune.allocation.survivors` of a pool as a whole, in Python's integers."""
    removed = sum(
        size * round(sparsity * 10**7) for size, sparsity in zip(sizes, sparsities, strict=True)
    )
    return sum(sizes) - (removed + 5 * 10**6) // 10**7


def _meet_budget(
    unit_masks_at: Callable[[float], list[np.ndarray]],
    cost_of: Callable[[list[np.ndarray]], float],
    budget: float,
) -> list[np.ndarray]:
    """Returns the units kept at the least sparsity whose cost is within the budget, found by bisection.

    Args:
      unit_masks_at: sparsity -> for each group a boolean per unit: it is kept.
      cost_of: these -> cost of the small function.
      budget: the fraction of the dense function's cost that may be left.

    Raises:
      ValueError: if one unit in each group costs more.
    """
    known_costs: dict[bytes, float] = {}

    def cached_cost(unit_masks: list[np.ndarray]) -> float:
        key = np.concatenate(unit_masks).tobytes()
        if key not in known_costs:  # a latency takes a compilation, and is not the same twice
            known_costs[key] = cost_of(unit_masks)
        return known_costs[key]

    low = 0.0
    high = 1 - 1e-6
    all_units = unit_masks_at(low)
    best = unit_masks_at(high)
    dense_cost = cached_cost(all_units)
    if cached_cost(best) > budget * dense_cost:
        raise ValueError(
            f"structured.prune(budget={budget}): with one unit left in each group "
            f"{cached_cost(best) / dense_cost:.3g} of the dense function's cost remains; more groups "
            "(only=), or a larger budget is needed."
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        unit_masks = unit_masks_at(middle)
        if cached_cost(unit_masks) <= budget * dense_cost:
            high = middle
            best = unit_masks
        else:
            low = middle
    return best if budget < 1 else all_units
