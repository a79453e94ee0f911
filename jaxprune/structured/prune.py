"""Which units of a graph's groups to remove, as ordinary masks."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import criteria
from jaxprune import masks as masks_lib
from jaxprune.allocation import survivors
from jaxprune.signals.gatherers import reads
from jaxprune.structured.graph import Graph, Group
from jaxprune.types import Criterion, Masks, Params

__all__ = ["masks_of_units", "prune", "scores"]

Reduce = Literal["sum", "mean", "max"]
_MAGNITUDE = criteria.magnitude


def scores(
    graph: Graph,
    params: Params,
    *,
    criterion: Criterion = _MAGNITUDE,
    reduce: Reduce = "sum",
    **signals: Any,
) -> list[np.ndarray]:
    """Returns one score per unit, for each group: what its slices of all kernels are worth together.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      criterion: of weights. Leaves that are never pruned by themselves (biases, scales, statistics) count
        where a criterion has no scores for any kernel of a group.
      reduce: how the scores of a unit's weights become one number.
      **signals: what the criterion reads.
    """
    names = masks_lib.paths(params)
    leaves = [np.asarray(s) if s is not None else None for s in _scored(criterion, params, signals)]
    kernel = [
        masks_lib.is_prunable(n, leaf)
        for n, leaf in zip(names, jax.tree.leaves(params), strict=True)
    ]
    found = []
    for group in graph.groups:
        own = [m for m in group.members if leaves[m.leaf] is not None]
        counted = [m for m in own if kernel[m.leaf]] or own
        total = np.full(group.size, -np.inf if reduce == "max" else 0.0)
        count = np.zeros(group.size)
        for member in counted:
            values = leaves[member.leaf].astype(np.float64)  # type: ignore[union-attr]
            rest = tuple(i for i in range(values.ndim) if i != member.axis)
            if reduce == "max":
                np.maximum.at(total, member.unit, values.max(rest)[member.index])
            else:
                np.add.at(total, member.unit, values.sum(rest)[member.index])
                np.add.at(count, member.unit, values.size // values.shape[member.axis])
        found.append(total / np.maximum(count, 1) if reduce == "mean" else total)
    return found


def prune(
    graph: Graph,
    params: Params,
    *,
    sparsity: float | Mapping[str, float],
    criterion: Criterion = _MAGNITUDE,
    reduce: Reduce = "sum",
    scope: Literal["local", "global"] = "local",
    only: str | Callable[[Group], bool] | None = None,
    round_to: int = 1,
    **signals: Any,
) -> Masks:
    """Removes whole units: the masks of what is left.

    Where groups share an axis (heads, and the channels of each head) only the one with the most units is
    pruned, unless `only` names others.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      sparsity: fraction of the units removed; a number, or numbers by regular expression, searched in the
        members' `path[axis]`, for those groups alone.
      criterion: of weights.
      reduce: how the scores of a unit's weights become one number.
      scope: "local": each group loses this fraction; "global": the units with the least scores of all go,
        compared by their mean score within the group. Each group keeps at least one unit.
      only: regular expression, searched in the members, or a predicate of groups.
      round_to: survivors of a group are a multiple of this, rounded up.
      **signals: what the criterion reads.

    Returns:
      bool arrays at the leaves that lose something, `None` elsewhere: for `jaxprune.masks.apply`,
      `jaxprune.fixed` and `shrink`.
    """
    rates = [_rate(group, sparsity) for group in graph.groups]
    chosen = [i for i, group in enumerate(graph.groups) if rates[i] and _wanted(group, only)]
    if only is None:
        chosen = _without_shared_axes(graph, chosen)
    if not chosen:
        raise ValueError(
            f"structured.prune: no group is meant by {only!r}, {sparsity!r}.\n{graph.summary()}"
        )
    found = scores(graph, params, criterion=criterion, reduce=reduce, **signals)
    keep = _counts(graph, chosen, rates, found, scope)
    removed = []
    for i in chosen:
        group = graph.groups[i]
        left = min(group.size, -(-max(keep[i], 1) // round_to) * round_to)
        order = np.argsort(-found[i], kind="stable")  # equal scores in the order of their units
        removed.append(group.units[order[left:]])
    return masks_of_units(graph, np.concatenate(removed))


def masks_of_units(graph: Graph, units: np.ndarray) -> Masks:
    """The masks of what is left without some units, given by their classes."""
    removed = np.zeros(graph.solution.classes, bool)
    removed[units] = True
    masks = []
    for axes in graph.kept(removed):
        if all(axis.all() for axis in axes):
            masks.append(None)
            continue
        whole = np.ones([len(axis) for axis in axes], bool)
        for i, axis in enumerate(axes):
            whole &= axis.reshape([-1 if j == i else 1 for j in range(len(axes))])
        masks.append(jnp.asarray(whole))
    return jax.tree.structure(graph.params).unflatten(masks)


def _scored(criterion: Criterion, params: Params, signals: Mapping[str, Any]) -> list[Any]:
    missing = [name for name in reads(criterion) if name not in signals]
    if missing:
        name = getattr(criterion, "__name__", "criterion")
        raise ValueError(
            f"structured.scores: {name} reads {missing[0]!r}; give {missing[0]}= (see "
            "jaxprune.signals.gatherers)."
        )
    return masks_lib.beside(params, criterion(params, **signals))


def _rate(group: Group, sparsity: float | Mapping[str, float]) -> float:
    if isinstance(sparsity, Mapping):
        named = [f"{m.path}[{m.axis}]" for m in group.members]
        hits = [s for p, s in sparsity.items() if any(re.search(p, name) for name in named)]
        rate = hits[0] if hits else 0.0
    else:
        rate = sparsity
    if not 0 <= rate < 1:
        raise ValueError(f"structured.prune(sparsity={sparsity}): fractions in [0, 1) are needed.")
    return rate


def _wanted(group: Group, only: Any) -> bool:
    if only is None:
        return True
    if callable(only):
        return bool(only(group))
    return any(re.search(only, f"{m.path}[{m.axis}]") for m in group.members)


def _without_shared_axes(graph: Graph, chosen: list[int]) -> list[int]:
    """Leaves out groups that share an index of an axis with a larger one: factors of a merged axis."""
    taken: dict[tuple[int, int], set[int]] = {}
    left = []
    for i in sorted(chosen, key=lambda i: -graph.groups[i].size):
        own = {(m.leaf, m.axis): set(m.index.tolist()) for m in graph.groups[i].members}
        if any(indices & taken.get(axis, set()) for axis, indices in own.items()):
            continue
        for axis, indices in own.items():
            taken[axis] = taken.get(axis, set()) | indices
        left.append(i)
    return sorted(left)


def _counts(
    graph: Graph, chosen: list[int], rates: list[float], found: list[np.ndarray], scope: str
) -> dict[int, int]:
    """Units that each group keeps."""
    if scope == "local":
        return {i: int(survivors(graph.groups[i].size, rates[i])) for i in chosen}
    if scope != "global":
        raise ValueError(f"structured.prune(scope={scope!r}): 'local' or 'global' is needed.")
    scaled = [found[i] / max(float(np.mean(np.abs(found[i]))), 1e-30) for i in chosen]
    everything = np.concatenate(scaled)
    total = sum(int(survivors(graph.groups[i].size, rates[i])) for i in chosen)
    order = np.argsort(-everything, kind="stable")
    alive = np.zeros(len(everything), bool)
    alive[order[:total]] = True
    cuts = np.cumsum([len(s) for s in scaled])[:-1]
    return {i: int(part.sum()) for i, part in zip(chosen, np.split(alive, cuts), strict=True)}
