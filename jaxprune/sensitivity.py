"""What each layer alone can lose: pruned one at a time, to several sparsities, and measured."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, criteria, patterns, schedules, trees
from jaxprune import masks as masks_lib
from jaxprune.allocation import by_path, knapsack
from jaxprune.coupling import Coupled
from jaxprune.kernel_axes import AxesTree, layer_axes, of_leaves
from jaxprune.masks import Prunable
from jaxprune.method import Method
from jaxprune.pruning import prune
from jaxprune.types import Criterion, Masks, Params, Pattern

__all__ = ["Found", "Sensitivity", "search", "sensitivity"]

_MAGNITUDE, _UNSTRUCTURED = criteria.magnitude, patterns.unstructured()
Evaluate = Callable[[Params], float]


class Sensitivity(NamedTuple):
    """The analysis of a network.

    Attributes:
      dense: the loss of the whole network.
      weights: by name of each prunable layer, the number of its weights. A layer has the path of its leaf for
        a name, or where layers are stacked in one leaf, the path with an index: `"layers/kernel[2]"`.
      sparsities: by name, the fractions that were removed of it, from 0 on; patterns round them.
      losses: by name, the loss of the network at each of them.
    """

    dense: float
    weights: dict[str, int]
    sparsities: dict[str, list[float]]
    losses: dict[str, list[float]]

    def rise(self, name: str, sparsity: float) -> float:
        """What the loss rises by with this layer alone pruned; linear in the logarithm of what is left."""
        known = [p for p in zip(self.sparsities[name], self.losses[name], strict=True) if p[0] < 1]
        left = [-np.log1p(-s) for s, _ in known]
        return float(np.interp(-np.log1p(-sparsity), left, [x for _, x in known])) - self.dense

    def rates(
        self, keep: float, costs: Mapping[str, float] | None = None, *, options: int = 60
    ) -> dict[str, float]:
        """The sparsity of each layer at which the rises of the loss add up to the least within a budget.

        What several layers lose together is taken for the sum of what each loses alone, and between two
        sparsities that were measured the rise is interpolated.

        Args:
          keep: fraction of the cost that may be left.
          costs: of each layer while it is dense, such as its operations; `None`: its weights.
          options: sparsities of each layer among which is chosen, from none to the highest that was measured.

        Raises:
          ValueError: if the highest sparsities that were measured still cost too much.
        """
        costs = self.weights if costs is None else costs
        tables: dict[str, list[float]] = {}
        for name, measured in self.sparsities.items():
            row = [s for s in measured if s < 1]  # a layer that lost all is no option
            fine = 1 - np.geomspace(1, 1 - row[-1], options)
            tables[name] = sorted({*row, *(float(s) for s in fine[1:-1])})
        rises = {name: [self.rise(name, s) for s in row] for name, row in tables.items()}
        left = {name: [costs[name] * (1 - s) for s in row] for name, row in tables.items()}
        budget = keep * sum(costs[name] for name in self.weights)
        chosen = knapsack(rises, left, budget, states=2_000)
        return {name: tables[name][i] for name, i in chosen.items()}


class Found(NamedTuple):
    """What a search has found.

    Attributes:
      rates: sparsity by name, for `jaxprune.allocation.by_path`.
      keep: fraction of the cost that is left.
      loss: of the network that is pruned to these rates.
      predicted: the dense loss and the rises that each layer showed alone.
      tried: (fraction of the cost, loss) of all that was tried on the way.
    """

    rates: dict[str, float]
    keep: float
    loss: float
    predicted: float
    tried: list[tuple[float, float]]


def sensitivity(
    evaluate: Evaluate,
    params: Params,
    sparsities: Sequence[float],
    *,
    criterion: Criterion = _MAGNITUDE,
    pattern: Pattern = _UNSTRUCTURED,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
    around: Params | None = None,
    progress: Callable[[int], Any] | None = None,
    **signals: Any,
) -> Sensitivity:
    """Prunes each layer alone, to each sparsity, and measures the network.

    Args:
      evaluate: parameters -> the loss, on data that are not the test set's.
      params: tree of arrays, trained.
      sparsities: fractions removed, ascending; 0 is always among the results.
      criterion: what is pruned first.
      pattern: what dies together and who competes.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: their shapes tell, and whatever depends on direction refuses those that do not.
        Layers that are stacked in one leaf are pruned one at a time.
      around: a tree like `params` that the other layers are taken from while one is pruned; `None`: `params`.
      progress: called with the number of evaluations done, after each.
      **signals: what the criterion reads.

    References:
      Li, Kadav, Durdanovic, Samet & Graf, "Pruning Filters for Efficient ConvNets" (2017), section 3.2;
      Han et al. (2015), figure 6.

    >>> import jax.numpy as jnp
    >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 5.0]])}
    >>> loss = lambda p: float(abs(3 - p["a"].sum()) + abs(8 - p["b"].sum()))
    >>> found = sensitivity(loss, params, [0.5])
    >>> found.losses, found.rates(keep=0.75)
    ({'a': [0.0, 1.0], 'b': [0.0, 3.0]}, {'a': 0.5, 'b': 0.0})
    """
    checks.check("sensitivity", evaluate=(evaluate, _EVALUATE), params=(params, checks.TREE))
    checks.check("sensitivity", sparsities=(sparsities, _FRACTIONS))
    asked = list(sparsities)
    checks.check(
        "sensitivity", **{f"sparsities[{i}]": (s, checks.NUMBER) for i, s in enumerate(asked)}
    )
    if not asked or any(not 0 < s < 1 for s in asked) or asked != sorted(set(asked)):
        raise ValueError(
            f"sensitivity(sparsities={asked}): ascending fractions in (0, 1) are needed."
        )
    if isinstance(pattern, Coupled):
        raise ValueError(
            "sensitivity: each leaf is pruned alone, but coupled units run through several; use "
            "patterns.channel, or structured.prune(sparsity={...}) for one group at a time."
        )
    masks = masks_lib.make(params, prunable, axes=axes)
    sizes = {row["leaf"]: row["weights"] for row in masks_lib.summary(masks, axes)}
    others = params if around is None else around
    dense = _loss("sensitivity", evaluate, params, "the network as it is")
    done = 1
    found = Sensitivity(dense, sizes, {n: [0.0] for n in sizes}, {n: [dense] for n in sizes})
    stacks = _stacks(params, axes)
    pruned_paths = masks_lib.paths(masks)
    for path in pruned_paths:
        for layer in stacks[path] if around is not None else ():
            around_it = f"the network with {layer.name!r} alone as it was"
            found.losses[layer.name][0] = _loss(
                "sensitivity", evaluate, _with(others, params, layer), around_it
            )
        for sparsity in asked:
            once = schedules.one_shot(sparsity=sparsity)
            method = Method(criterion, schedule=once, pattern=pattern)
            only = lambda name, _, path=path: name == path
            # The layers of a stack have budgets of their own: cut together, each loses what it would alone.
            pruned, cut = prune(params, method, prunable=only, axes=axes, **signals)
            (mask,) = jax.tree.leaves(cut)
            for layer in stacks[path]:
                gone = masks_lib.sparsity(mask[layer.index])
                found.sparsities[layer.name].append(float(gone))
                what = f"the network without {sparsity:g} of {layer.name!r}"
                loss = _loss("sensitivity", evaluate, _with(others, pruned, layer), what)
                found.losses[layer.name].append(loss)
                done += 1
                if progress is not None:
                    progress(done)
    return found


_EVALUATE = checks.Kind(
    "a function",
    checks.is_function,
    lambda _: "(params) -> the loss, on data that are not the test set's",
)
_FRACTIONS = checks.Kind(
    "a list of fractions",
    lambda value: isinstance(value, Iterable) and not isinstance(value, str | Mapping),
    lambda _: "such as [0.5, 0.8, 0.9], ascending",
)


def _loss(who: str, evaluate: Evaluate, params: Params, what: str) -> float:
    """The loss of a network; refuses what is no number, and NaN and infinity, which are no loss."""
    found = evaluate(params)
    if np.shape(found) != ():
        raise ValueError(
            f"{who}: evaluate returned an array of the shape {np.shape(found)}, and one number is needed; "
            "return the mean loss."
        )
    loss = float(found)
    if not np.isfinite(loss):
        raise ValueError(
            f"{who}: the loss of {what} is {loss}, which cannot be compared; look for NaN in the weights and "
            "in the data, or leave the highest sparsities out."
        )
    return loss


class _Layer(NamedTuple):
    """A leaf, or a slice of one that is a layer of its own.

    Attributes:
      name: of the layer.
      path: of the leaf.
      index: of the layer in the leaf; `...` for all of it.
    """

    name: str
    path: str
    index: Any


def _stacks(params: Params, axes: AxesTree | None) -> dict[str, list[_Layer]]:
    """The layers of each leaf, by its path."""
    leaves = zip(
        masks_lib.paths(params), jax.tree.leaves(params), of_leaves(axes, params), strict=True
    )
    return {path: _layers_of(path, jnp.shape(leaf), layer_axes(own)) for path, leaf, own in leaves}


def _layers_of(path: str, shape: tuple[int, ...], apart: tuple[int, ...]) -> list[_Layer]:
    if not apart:
        return [_Layer(path, path, ...)]
    layer_shape = [shape[axis] for axis in apart]
    found = []
    for name, place in zip(
        trees.layer_names(path, layer_shape), np.ndindex(*layer_shape), strict=True
    ):
        index: list[Any] = [slice(None)] * len(shape)
        for axis, number in zip(apart, place, strict=True):
            index[axis] = number
        found.append(_Layer(name, path, tuple(index)))
    return found


def _with(others: Params, own: Params, layer: _Layer) -> Params:
    """The other layers, with one of a tree's own."""
    treedef = jax.tree.structure(others)
    leaves = zip(
        masks_lib.paths(others), jax.tree.leaves(others), jax.tree.leaves(own), strict=True
    )

    def taken(other: Any, mine: Any) -> Any:
        if layer.index is ...:
            return mine
        return jnp.asarray(other).at[layer.index].set(mine[layer.index])

    return treedef.unflatten(
        [taken(other, mine) if path == layer.path else other for path, other, mine in leaves]
    )


def search(
    evaluate: Evaluate,
    params: Params,
    table: Sensitivity,
    *,
    keep: float | None = None,
    tolerance: float | None = None,
    measure: Evaluate | None = None,
    costs: Mapping[str, float] | None = None,
    criterion: Criterion = _MAGNITUDE,
    pattern: Pattern = _UNSTRUCTURED,
    axes: AxesTree | None = None,
    rounds: int = 1,
    steps: int = 10,
    progress: Callable[[int], Any] | None = None,
    **signals: Any,
) -> tuple[Found, Params, Masks]:
    """Finds the sparsity of each layer: for a target of cost, or for a loss that must not rise further.

    Args:
      evaluate: parameters -> the loss; the same as for the analysis.
      params: tree of arrays, trained.
      table: of `sensitivity`.
      keep: target: fraction of the cost that may be left, up to half a unit of each layer.
      tolerance: instead, how much `measure` may rise; the least cost at which it does not rise further is
        searched by bisection.
      measure: parameters -> what the tolerance is of, such as the error; `None`: the loss.
      costs: of each layer while it is dense, such as its operations; `None`: its weights.
      criterion: what is pruned first.
      pattern: what dies together and who competes.
      axes: the same as for the analysis.
      rounds: how often the analysis is repeated around what was found, with the other layers pruned, and
        solved again; the best network of all is taken. Each costs as many evaluations as the analysis. Not
        with a tolerance.
      steps: of the bisection.
      progress: called with the number of networks measured, after each.
      **signals: what the criterion reads.

    Returns:
      What was found, and the pruned parameters with their masks.
    """
    if (keep is None) == (tolerance is None):
        raise ValueError("search: give either keep= (of the cost) or tolerance= (of the loss).")
    checks.check("search", evaluate=(evaluate, _EVALUATE), params=(params, checks.TREE))
    checks.check("search", rounds=(rounds, checks.INTEGER), steps=(steps, checks.INTEGER))
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"search(keep={keep}): a fraction of the cost in (0, 1] is needed.")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(
            f"search(tolerance={tolerance}): a rise of the loss, 0 or above, is needed."
        )
    chosen = _analysed(table, params, axes)
    costs, measure = table.weights if costs is None else costs, measure or evaluate
    whole = sum(costs[name] for name in table.weights)
    tried: list[tuple[float, float]] = []
    evaluate = _counting(evaluate, progress)

    def at(rates: dict[str, float]) -> tuple[Found, Params, Masks]:
        pruned, masks = _pruned(params, table, rates, chosen, criterion, pattern, axes, signals)
        rows = masks_lib.summary(masks, axes)
        kept = {row["leaf"]: row["kept"] / row["weights"] for row in rows}
        left = sum(costs[n] * kept[n] for n in kept) / whole
        loss = _loss("search", evaluate, pruned, "the network pruned to these rates")
        tried.append((left, loss))
        predicted = table.dense + sum(table.rise(n, s) for n, s in rates.items())
        return Found(rates, left, loss, predicted, tried), pruned, masks

    def better(best: tuple[Found, Params, Masks], keep: float) -> tuple[Found, Params, Masks]:
        """Looks around what was found."""
        options = {"criterion": criterion, "pattern": pattern, **signals}
        asked = sorted({s for row in table.sparsities.values() for s in row if 0 < s < 1})
        for _ in range(rounds):
            near = sensitivity(
                evaluate,
                params,
                asked,
                prunable=lambda path, _: path in chosen,
                axes=axes,
                around=best[1],
                **options,
            )
            found = at(near.rates(keep, costs))
            best = min(best, found, key=lambda f: f[0].loss)
        return best

    if keep is not None:
        return better(at(table.rates(keep, costs)), keep)
    most_of = {n: max(s for s in row if s < 1) for n, row in table.sparsities.items()}
    least = sum(costs[n] * (1 - s) for n, s in most_of.items()) / whole
    low, high, best = least * (1 + 1e-9), 1.0, at(dict.fromkeys(table.weights, 0.0))
    at_first = _loss("search", measure, params, "the network as it is")
    most = at_first + tolerance  # type: ignore[operator]
    for _ in range(steps):
        middle = float(np.sqrt(low * high))
        found = at(table.rates(middle, costs))
        if float(measure(found[1])) <= most:
            best, high = found, middle
        else:
            low = middle
    return best


def _counting(evaluate: Evaluate, progress: Callable[[int], Any] | None) -> Evaluate:
    done = 0

    def counted(params: Params) -> float:
        nonlocal done
        found, done = float(evaluate(params)), done + 1
        if progress is not None:
            progress(done)
        return found

    return counted


def _analysed(table: Sensitivity, params: Params, axes: AxesTree | None) -> set[str]:
    """The paths of the leaves that the table is about; refuses a table of other layers."""
    path_of = {
        layer.name: layer.path for layers in _stacks(params, axes).values() for layer in layers
    }
    unknown = [name for name in table.weights if name not in path_of]
    if unknown:
        raise ValueError(
            f"search: the table has {unknown[0]!r}, but the layers of these parameters are "
            f"{trees.quote_names(list(path_of))}; give the axes= that sensitivity was given."
        )
    return {path_of[name] for name in table.weights}


def _pruned(
    params: Params,
    table: Sensitivity,
    rates: Mapping[str, float],
    chosen: set[str],
    criterion: Criterion,
    pattern: Pattern,
    axes: AxesTree | None,
    signals: Mapping[str, Any],
) -> tuple[Params, Masks]:
    paths = {f"^{re.escape(name)}$": rate for name, rate in rates.items()}
    prunable = lambda path, _: path in chosen
    if not any(rates.values()):
        return params, masks_lib.make(params, prunable)
    sparsity = sum(table.weights[n] * r for n, r in rates.items()) / sum(table.weights.values())
    schedule = schedules.one_shot(sparsity=sparsity)
    allocation = by_path(paths)
    method = Method(criterion, schedule=schedule, pattern=pattern, allocation=allocation)
    return prune(params, method, prunable=prunable, axes=axes, **signals)
