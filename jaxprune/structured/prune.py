"""Which units of a graph's groups to remove, as ordinary masks."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import criteria
from jaxprune import masks as masks_lib
from jaxprune.coupling import Coupled, Group, Normalize, Over, Reduce
from jaxprune.signals.gatherers import reads
from jaxprune.structured.costs import Cost, flops
from jaxprune.structured.graph import Graph
from jaxprune.types import Criterion, Masks, Params

__all__ = ["coupled", "prune", "scores"]

Only = str | Callable[[Group], bool] | None
Scope = Literal["local", "global", "isomorphic"]
_MAGNITUDE = criteria.magnitude


def coupled(
    graph: Graph,
    *,
    within: str | None = None,
    only: Only = None,
    reduce: Reduce = "sum",
    normalize: Normalize = "none",
    over: Over = "all",
) -> Coupled:
    """The groups of a graph as a pattern: every method prunes units that are coupled, in training too.

    Give it to `jaxprune.prune`, `prune_on`, `sparsify` and the like as a method's pattern. The allocation
    sees each group as a leaf, by the group's name; a group always keeps one unit. Masks cover all that units
    run along, biases and scales too, and `shrink` takes them afterwards.

    Where groups share an axis (heads, and the channels of each head) only the one with the most units is
    taken, unless `only` names others.

    Args:
      graph: of the function.
      within: the part of the traced tree whose parameters are trained: `"params"` of Flax's variables.
      only: regular expression, searched in the members' `path[axis]`, or a predicate of groups.
      reduce: how the scores of a unit's weights become one number: "sum", "mean", "max", "norm" or
        "absolute", the absolute value of their sum.
      normalize: what a group's scores are divided by, to compare groups: "mean", "max", "sum", "norm".
      over: the weights that count: of "all" kernels that a unit runs through, of its "outputs" (not the
        layers after it), or its "scales" and biases, as of a BatchNorm.

    >>> import jax.numpy as jnp
    >>> from jaxprune import methods, prune as prune_by
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.array([[1.0, 2.0, 3.0]]), "out": jnp.ones((3, 1))}
    >>> pattern = coupled(trace(fn, params, jnp.ones((1, 1))))
    >>> prune_by(params, methods.magnitude(sparsity=0.5, pattern=pattern))[0]["out"].tolist()
    [[0.0], [0.0], [1.0]]
    """
    for name, value, known in (
        ("reduce", reduce, _REDUCE),
        ("normalize", normalize, _NORMALIZE),
        ("over", over, _OVER),
    ):
        if value not in known:
            raise ValueError(
                f"structured.coupled({name}={value!r}): one of {', '.join(known)} is needed."
            )
    chosen = [i for i, group in enumerate(graph.groups) if _wanted(group, only)]
    if only is None:
        chosen = _without_shared_axes(graph, chosen)
    groups = [graph.groups[i] for i in chosen]
    if within is not None:
        groups = [found for group in groups if (found := _within(group, within)) is not None]
    if not groups:
        raise ValueError(
            f"structured: no group is meant by only={only!r}, within={within!r}.\n{graph.summary()}"
        )
    return Coupled(tuple(groups), reduce, normalize, over)


def scores(
    graph: Graph,
    params: Params,
    *,
    criterion: Criterion = _MAGNITUDE,
    reduce: Reduce = "sum",
    normalize: Normalize = "none",
    over: Over = "all",
    **signals: Any,
) -> dict[str, np.ndarray]:
    """Returns one score per unit, for each group by name: what its slices of all kernels are worth together.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      criterion: of weights. Leaves that are never pruned by themselves (biases, scales, statistics) count
        where a criterion has no scores for any kernel of a group.
      reduce, normalize, over: how the scores of a unit's weights become one number (see `coupled`).
      **signals: what the criterion reads.
    """
    pattern = coupled(graph, only=_any, reduce=reduce, normalize=normalize, over=over)
    found = pattern.units(_scored(criterion, graph, params, signals))
    return {group.name: own for group, own in zip(pattern.groups, found, strict=True)}


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
    round_to: int = 1,
    **signals: Any,
) -> Masks:
    """Removes whole units: the masks of what is left.

    Where groups share an axis (heads, and the channels of each head) only the one with the most units is
    pruned, unless `only` names others. Each group keeps at least one unit.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      sparsity: fraction of the units removed; a number, or numbers by regular expression, searched in the
        members' `path[axis]`, for those groups alone.
      budget: instead of a sparsity, the fraction of the dense function's cost that may be left; the sparsity
        is then the least that meets it.
      cost: what the budget counts: `structured.flops`, `structured.parameters`, `structured.latency(...)`, or
        any function (graph, params, masks) -> number.
      criterion: of weights.
      reduce, over: how the scores of a unit's weights become one number (see `coupled`).
      normalize: what the scores of a group are divided by; `None`: by their mean where groups are compared.
      scope: "local": each group loses this fraction; "global": the worst units of all go; "isomorphic": the
        worst of those groups that have the same structure, so that unlike ones are never compared.
      only: regular expression, searched in the members, or a predicate of groups.
      round_to: survivors of a group are a multiple of this, rounded up.
      **signals: what the criterion reads.

    Returns:
      bool arrays at the leaves that lose something, `None` elsewhere: for `jaxprune.masks.apply`,
      `jaxprune.fixed` and `shrink`.

    References:
      Fang, Ma, Mi, Bi & Wang, "Isomorphic Pruning for Vision Models" (2024).
    """
    if (sparsity is None) == (budget is None):
        raise ValueError("structured.prune: one of sparsity= and budget= is needed.")
    if scope not in ("local", "global", "isomorphic"):
        raise ValueError(
            f"structured.prune(scope={scope!r}): 'local', 'global' or 'isomorphic' is needed."
        )
    if round_to < 1:
        raise ValueError(f"structured.prune(round_to={round_to}): at least 1 is needed.")
    if isinstance(sparsity, Mapping):
        _check_rates(graph, sparsity)
    normalize = normalize or ("none" if scope == "local" else "mean")
    wanted = only
    if isinstance(sparsity, Mapping):
        wanted = lambda group: _wanted(group, only) and _rate(group, sparsity) > 0
    pattern = coupled(graph, only=wanted, reduce=reduce, normalize=normalize, over=over)
    if isinstance(sparsity, Mapping) and only is None:
        names = {group.name for group in pattern.groups}
        chosen = [i for i, group in enumerate(graph.groups) if group.name in names]
        left = {graph.groups[i].name for i in _without_shared_axes(graph, chosen)}
        pattern = pattern._replace(groups=tuple(g for g in pattern.groups if g.name in left))
    found = pattern.units(_scored(criterion, graph, params, signals))
    pools = _pools(pattern.groups, scope)

    def masks_at(sparsity: float | Mapping[str, float]) -> Masks:
        rates = [_rate(group, sparsity) for group in pattern.groups]
        alive = _survivors(found, rates, pools, round_to)
        return _tree(graph, pattern.masks(alive))

    if sparsity is not None:
        return masks_at(sparsity)
    if not 0 < budget <= 1:  # type: ignore[operator]
        raise ValueError(f"structured.prune(budget={budget}): a fraction in (0, 1] is needed.")
    return _within_budget(masks_at, lambda masks: cost(graph, params, masks), budget)  # type: ignore[arg-type]


_REDUCE, _NORMALIZE = Reduce.__args__, Normalize.__args__  # type: ignore[attr-defined]
_OVER = Over.__args__  # type: ignore[attr-defined]
_STEPS = 20  # halvings of the interval of sparsities: finer than one unit of a million


def _any(group: Group) -> bool:
    return True


def _tree(graph: Graph, by_path: Mapping[str, Any]) -> Masks:
    """A tree like the parameters, with `None` where nothing is lost."""
    found = [by_path.get(path) for path in graph.paths]
    lost = [None if m is None or m.all() else jnp.asarray(m) for m in found]
    return jax.tree.structure(graph.params).unflatten(lost)


def _scored(
    criterion: Criterion, graph: Graph, params: Params, signals: Mapping[str, Any]
) -> dict[str, Any]:
    """float64 scores by path."""
    name = getattr(criterion, "__name__", "criterion")
    missing = [signal for signal in reads(criterion) if signal not in signals]
    if missing:
        raise ValueError(
            f"structured: {name} reads {missing[0]!r}; give {missing[0]}= (see "
            "jaxprune.signals.gatherers)."
        )
    graph.check(params)
    compiled = all(hasattr(x, "dtype") for x in jax.tree.leaves(signals))
    numbers = jax.tree.map(_number, params)
    found = (_compiled(criterion) if compiled else criterion)(numbers, **signals)
    found = masks_lib.beside(params, found)
    for path, s, leaf in zip(graph.paths, found, jax.tree.leaves(params), strict=True):
        if s is not None and jnp.shape(s) != jnp.shape(leaf):
            raise ValueError(
                f"{name}: {path!r} has scores of the shape {jnp.shape(s)}, its weights {jnp.shape(leaf)}; "
                "give one score per weight."
            )
    pairs = zip(graph.paths, found, strict=True)
    return {path: np.asarray(s, np.float64) for path, s in pairs if s is not None}


def _number(x: Any) -> Any:
    """A leaf that a criterion can read: PRNG keys have no scores."""
    return jnp.zeros(x.shape) if jnp.issubdtype(x.dtype, jax.dtypes.extended) else x


@functools.lru_cache(maxsize=16)
def _compiled(criterion: Criterion) -> Criterion:
    """One program for all leaves, instead of one for each shape."""
    return jax.jit(criterion)


def _check_rates(graph: Graph, sparsity: Mapping[str, float]) -> None:
    """Refuses expressions that mean no group, and rates that remove nothing."""
    for expression in sparsity:
        if not any(_wanted(group, expression) for group in graph.groups):
            raise ValueError(
                f"structured.prune(sparsity={dict(sparsity)}): no group is meant by {expression!r}.\n"
                f"{graph.summary()}"
            )
    if not any(sparsity.values()):
        raise ValueError(f"structured.prune(sparsity={dict(sparsity)}): nothing is to be removed.")


def _rate(group: Group, sparsity: float | Mapping[str, float]) -> float:
    rate = sparsity
    if isinstance(sparsity, Mapping):
        hits = [s for p, s in sparsity.items() if any(re.search(p, str(m)) for m in group.members)]
        rate = hits[0] if hits else 0.0
    if not 0 <= rate < 1:  # type: ignore[operator]
        raise ValueError(f"structured.prune(sparsity={sparsity}): fractions in [0, 1) are needed.")
    return rate  # type: ignore[return-value]


def _wanted(group: Group, only: Only) -> bool:
    if only is None or callable(only):
        return only is None or bool(only(group))
    return any(re.search(only, str(m)) for m in group.members)


def _within(group: Group, part: str) -> Group | None:
    """What a group has in a part of the tree, with the paths of that part."""
    start = part.rstrip("/") + "/"
    own = [
        m._replace(path=m.path.removeprefix(start))
        for m in group.members
        if m.path.startswith(start)
    ]
    return group._replace(members=tuple(own)) if own else None


def _without_shared_axes(graph: Graph, chosen: list[int]) -> list[int]:
    """Leaves out groups that share an index of an axis with a larger one: factors of a merged axis."""
    taken: dict[tuple[str, int], set[int]] = {}
    left = []
    for i in sorted(chosen, key=lambda i: -graph.groups[i].size):
        own = {(m.path, m.axis): set(m.index.ravel().tolist()) for m in graph.groups[i].members}
        if any(indices & taken.get(axis, set()) for axis, indices in own.items()):
            continue
        for axis, indices in own.items():
            taken[axis] = taken.get(axis, set()) | indices
        left.append(i)
    return sorted(left)


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
    found: list[np.ndarray], rates: list[float], pools: list[list[int]], round_to: int
) -> list[np.ndarray]:
    """Which units of each group live; equal scores in the order of their units."""
    alive = [np.ones(len(own), bool) for own in found]
    for pool in pools:
        everything = np.concatenate([found[i] for i in pool])
        total = _left([len(found[i]) for i in pool], [rates[i] for i in pool])
        best = np.zeros(len(everything), bool)
        best[np.argsort(-everything, kind="stable")[:total]] = True
        cuts = np.cumsum([len(found[i]) for i in pool])[:-1]
        for i, own in zip(pool, np.split(best, cuts), strict=True):
            left = min(len(own), -(-max(int(own.sum()), 1) // round_to) * round_to)
            alive[i] = np.zeros(len(own), bool)
            alive[i][np.argsort(-found[i], kind="stable")[:left]] = True
    return alive


def _left(sizes: list[int], rates: list[float]) -> int:
    """As `jaxprune.allocation.survivors` of the whole pool, in Python's integers."""
    removed = sum(n * round(rate * 10**7) for n, rate in zip(sizes, rates, strict=True))
    return sum(sizes) - (removed + 5 * 10**6) // 10**7


def _within_budget(
    masks_at: Callable[[float], Masks], cost: Callable[[Masks], float], budget: float
) -> Masks:
    """The masks of the least sparsity whose cost is within a fraction of that of none."""
    low, high = 0.0, 1 - 1e-6
    dense, best = cost(masks_at(low)), masks_at(high)
    if cost(best) > budget * dense:
        raise ValueError(
            f"structured.prune(budget={budget}): with one unit left in each group {cost(best) / dense:.3g} "
            "of the dense function's cost remains; more groups (only=), or a larger budget is needed."
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = masks_at(middle)
        if cost(found) <= budget * dense:
            high, best = middle, found
        else:
            low = middle
    return best if budget < 1 else masks_at(0.0)
