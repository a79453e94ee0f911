"""Sensitivity analysis: each layer alone is pruned to several sparsities, and the network is measured."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, criteria, patterns, schedules, trees
from jaxprune import masks as masks_lib
from jaxprune.allocation import by_path, knapsack
from jaxprune.kernel_axes import AxesTree, layer_axes, of_leaves
from jaxprune.masks import Prunable
from jaxprune.method import Method
from jaxprune.pruning.by_method import prune
from jaxprune.types import Criterion, Masks, Params, Pattern
from jaxprune.units.coupling import Coupled

__all__ = ["SearchResult", "Sensitivity", "search", "sensitivity"]


def __dir__() -> list[str]:
    return sorted(__all__)


_MAGNITUDE = criteria.magnitude
_UNSTRUCTURED = patterns.unstructured()
Evaluate = Callable[[Params], float]


class Sensitivity(NamedTuple):
    """The losses of a network with each layer alone pruned to several sparsities.

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
        """Returns the rise of the loss with this layer alone pruned to a sparsity.

        Between two sparsities that were measured it is linear in the logarithm of what is left.

        Args:
          name: of the layer.
          sparsity: fraction removed of it, in [0, 1).
        """
        pairs = zip(self.sparsities[name], self.losses[name], strict=True)
        measured = [pair for pair in pairs if pair[0] < 1]
        logarithms = [-np.log1p(-removed) for removed, _ in measured]
        losses = [loss for _, loss in measured]
        return float(np.interp(-np.log1p(-sparsity), logarithms, losses)) - self.dense

    def rates(
        self, budget: float, costs: Mapping[str, float] | None = None, *, options: int = 60
    ) -> dict[str, float]:
        """Returns the sparsity of each layer at which the rises of the loss add up to the least in a budget.

        What several layers lose together is taken for the sum of what each loses alone, and between two
        sparsities that were measured the rise is interpolated.

        Args:
          budget: fraction of the cost that may be left, in (0, 1].
          costs: of each layer while it is dense, such as its operations; `None`: its weights.
          options: sparsities of each layer among which is chosen, from none to the highest that was measured.

        Returns:
          Sparsities by name, for `jaxprune.allocation.by_path`.

        Raises:
          ValueError: if the highest sparsities that were measured still cost too much.
        """
        costs = self.weights if costs is None else costs
        choices: dict[str, list[float]] = {}
        for name, measured in self.sparsities.items():
            row = [
                sparsity for sparsity in measured if sparsity < 1
            ]  # a layer that lost all is no option
            grid = 1 - np.geomspace(1, 1 - row[-1], options)
            choices[name] = sorted({*row, *(float(sparsity) for sparsity in grid[1:-1])})
        rises = {name: [self.rise(name, s) for s in row] for name, row in choices.items()}
        costs_left = {name: [costs[name] * (1 - s) for s in row] for name, row in choices.items()}
        total_budget = budget * sum(costs[name] for name in self.weights)
        chosen = knapsack(rises, costs_left, total_budget)
        return {name: choices[name][index] for name, index in chosen.items()}


class SearchResult(NamedTuple):
    """The sparsities that a search has found, and what they cost.

    Attributes:
      rates: sparsity by name, for `jaxprune.allocation.by_path`.
      cost: fraction of the cost that is left.
      loss: of the network that is pruned to these rates.
      predicted: the dense loss and the rises that each layer showed alone.
      tried: (fraction of the cost, loss) of all that was tried on the way.
    """

    rates: dict[str, float]
    cost: float
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
    """Returns the losses of the network with each layer alone pruned, to each sparsity.

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

    Returns:
      The analysis; its `rates` give the best sparsities within a budget, as far as single layers tell.

    Raises:
      ValueError: if the sparsities are no ascending fractions, the pattern couples leaves, or a loss is no
        finite number.

    References:
      Li, Kadav, Durdanovic, Samet & Graf, "Pruning Filters for Efficient ConvNets" (2017), section 3.2;
      Han et al. (2015), figure 6.

    >>> import jax.numpy as jnp
    >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 5.0]])}
    >>> loss = lambda p: float(abs(3 - p["a"].sum()) + abs(8 - p["b"].sum()))
    >>> table = sensitivity(loss, params, [0.5])
    >>> table.losses, table.rates(budget=0.75)
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
    dense_loss = _finite_loss("sensitivity", evaluate, params, "the network as it is")
    evaluations_done = 1
    table = Sensitivity(
        dense_loss,
        sizes,
        {name: [0.0] for name in sizes},
        {name: [dense_loss] for name in sizes},
    )
    layers_of_leaves = _layers_by_path(params, axes)
    for path in masks_lib.paths(masks):
        for layer in layers_of_leaves[path] if around is not None else ():
            network = f"the network with {layer.name!r} alone as it was"
            table.losses[layer.name][0] = _finite_loss(
                "sensitivity", evaluate, _with_layer(others, params, layer), network
            )
        for sparsity in asked:
            once = schedules.one_shot(sparsity=sparsity)
            method = Method(criterion, schedule=once, pattern=pattern)
            # The layers of a stack have budgets of their own: cut together, each loses what it would alone.
            pruned, leaf_masks = prune(
                params,
                method,
                prunable=lambda name, _, path=path: name == path,
                axes=axes,
                **signals,
            )
            (mask,) = jax.tree.leaves(leaf_masks)
            for layer in layers_of_leaves[path]:
                removed = masks_lib.sparsity(mask[layer.index])
                table.sparsities[layer.name].append(float(removed))
                network = f"the network without {sparsity:g} of {layer.name!r}"
                loss = _finite_loss(
                    "sensitivity", evaluate, _with_layer(others, pruned, layer), network
                )
                table.losses[layer.name].append(loss)
                evaluations_done += 1
                if progress is not None:
                    progress(evaluations_done)
    return table


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


def _finite_loss(who: str, evaluate: Evaluate, params: Params, network: str) -> float:
    """The loss of a network; refuses what is no number, and NaN and infinity, which are no loss."""
    value = evaluate(params)
    if np.shape(value) != ():
        raise ValueError(
            f"{who}: evaluate returned an array of the shape {np.shape(value)}, and one number is needed; "
            "return the mean loss."
        )
    loss = float(value)
    if not np.isfinite(loss):
        raise ValueError(
            f"{who}: the loss of {network} is {loss}, which cannot be compared; look for NaN in the weights "
            "and in the data, or leave the highest sparsities out."
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


def _layers_by_path(params: Params, axes: AxesTree | None) -> dict[str, list[_Layer]]:
    """The layers of each leaf, by its path."""
    rows = zip(
        masks_lib.paths(params), jax.tree.leaves(params), of_leaves(axes, params), strict=True
    )
    return {
        path: _layers_of_leaf(path, jnp.shape(leaf), layer_axes(leaf_axes))
        for path, leaf, leaf_axes in rows
    }


def _layers_of_leaf(path: str, shape: tuple[int, ...], stack_axes: tuple[int, ...]) -> list[_Layer]:
    if not stack_axes:
        return [_Layer(path, path, ...)]
    stack_shape = [shape[axis] for axis in stack_axes]
    names = trees.layer_names(path, stack_shape)
    layers = []
    for name, position in zip(names, np.ndindex(*stack_shape), strict=True):
        index: list[Any] = [slice(None)] * len(shape)
        for axis, layer_index in zip(stack_axes, position, strict=True):
            index[axis] = layer_index
        layers.append(_Layer(name, path, tuple(index)))
    return layers


def _with_layer(others: Params, source: Params, layer: _Layer) -> Params:
    """The tree `others`, with one layer taken from `source`."""
    treedef = jax.tree.structure(others)
    rows = zip(
        masks_lib.paths(others), jax.tree.leaves(others), jax.tree.leaves(source), strict=True
    )

    def replace_layer(leaf: Any, source_leaf: Any) -> Any:
        if layer.index is ...:
            return source_leaf
        return jnp.asarray(leaf).at[layer.index].set(source_leaf[layer.index])

    return treedef.unflatten(
        [
            replace_layer(leaf, source_leaf) if path == layer.path else leaf
            for path, leaf, source_leaf in rows
        ]
    )


def search(
    evaluate: Evaluate,
    params: Params,
    table: Sensitivity,
    *,
    budget: float | None = None,
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
) -> tuple[SearchResult, Params, Masks]:
    """Searches the sparsity of each layer: for a budget of cost, or for a loss that must not rise further.

    Args:
      evaluate: parameters -> the loss; the same as for the analysis.
      params: tree of arrays, trained.
      table: of `sensitivity`.
      budget: fraction of the cost that may be left, in (0, 1], up to half a unit of each layer.
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
      The sparsities that were found, and the pruned parameters with their masks.

    Raises:
      ValueError: if not one of budget and tolerance is given or it is out of its range, the table is of other
        layers, or a loss is no finite number.

    >>> import jax.numpy as jnp
    >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 5.0]])}
    >>> loss = lambda p: float(abs(3 - p["a"].sum()) + abs(8 - p["b"].sum()))
    >>> result, pruned, _ = search(loss, params, sensitivity(loss, params, [0.5]), budget=0.75)
    >>> result.rates, result.cost, pruned["a"]
    ({'a': 0.5, 'b': 0.0}, 0.75, Array([[0., 2.]], dtype=float32))
    """
    if (budget is None) == (tolerance is None):
        raise ValueError("search: give either budget= (of the cost) or tolerance= (of the loss).")
    checks.check("search", evaluate=(evaluate, _EVALUATE), params=(params, checks.TREE))
    checks.check("search", rounds=(rounds, checks.INTEGER), steps=(steps, checks.INTEGER))
    if budget is not None and not 0 < budget <= 1:
        raise ValueError(f"search(budget={budget}): a fraction of the cost in (0, 1] is needed.")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(
            f"search(tolerance={tolerance}): a rise of the loss, 0 or above, is needed."
        )
    pruned_paths = _check_table(table, params, axes)
    costs = table.weights if costs is None else costs
    measure = measure or evaluate
    dense_cost = sum(costs[name] for name in table.weights)
    tried: list[tuple[float, float]] = []
    evaluate = _with_progress(evaluate, progress)

    def prune_to(rates: dict[str, float]) -> tuple[SearchResult, Params, Masks]:
        pruned, masks = _prune_layers(
            params, table, rates, pruned_paths, criterion, pattern, axes, signals
        )
        rows = masks_lib.summary(masks, axes)
        kept = {row["leaf"]: row["kept"] / row["weights"] for row in rows}
        cost = sum(costs[name] * kept[name] for name in kept) / dense_cost
        loss = _finite_loss("search", evaluate, pruned, "the network pruned to these rates")
        tried.append((cost, loss))
        predicted = table.dense + sum(table.rise(name, rate) for name, rate in rates.items())
        return SearchResult(rates, cost, loss, predicted, tried), pruned, masks

    def refine(
        best: tuple[SearchResult, Params, Masks], budget: float
    ) -> tuple[SearchResult, Params, Masks]:
        """Repeats the analysis around the best network, and takes the better one."""
        options = {"criterion": criterion, "pattern": pattern, **signals}
        asked = sorted({s for row in table.sparsities.values() for s in row if 0 < s < 1})
        for _ in range(rounds):
            table_around = sensitivity(
                evaluate,
                params,
                asked,
                prunable=lambda path, _: path in pruned_paths,
                axes=axes,
                around=best[1],
                **options,
            )
            candidate = prune_to(table_around.rates(budget, costs))
            best = min(best, candidate, key=lambda network: network[0].loss)
        return best

    if budget is not None:
        return refine(prune_to(table.rates(budget, costs)), budget)
    highest = {name: max(s for s in row if s < 1) for name, row in table.sparsities.items()}
    least_cost = sum(costs[name] * (1 - rate) for name, rate in highest.items()) / dense_cost
    # Bisection: networks of the higher budget are within the tolerance.
    low_budget = least_cost * (1 + 1e-9)
    high_budget = 1.0
    best = prune_to(dict.fromkeys(table.weights, 0.0))
    first_measure = _finite_loss("search", measure, params, "the network as it is")
    limit = first_measure + tolerance  # type: ignore[operator]
    for _ in range(steps):
        middle_budget = float(np.sqrt(low_budget * high_budget))
        candidate = prune_to(table.rates(middle_budget, costs))
        if float(measure(candidate[1])) <= limit:
            best = candidate
            high_budget = middle_budget
        else:
            low_budget = middle_budget
    return best


def _with_progress(evaluate: Evaluate, progress: Callable[[int], Any] | None) -> Evaluate:
    """Returns the evaluation that tells `progress` how many there were."""
    evaluations_done = 0

    def evaluate_and_tell(params: Params) -> float:
        nonlocal evaluations_done
        loss = float(evaluate(params))
        evaluations_done += 1
        if progress is not None:
            progress(evaluations_done)
        return loss

    return evaluate_and_tell


def _check_table(table: Sensitivity, params: Params, axes: AxesTree | None) -> set[str]:
    """The paths of the leaves that the table is about; refuses a table of other layers."""
    path_of_layer = {
        layer.name: layer.path
        for layers in _layers_by_path(params, axes).values()
        for layer in layers
    }
    unknown = [name for name in table.weights if name not in path_of_layer]
    if unknown:
        raise ValueError(
            f"search: the table has {unknown[0]!r}, but the layers of these parameters are "
            f"{trees.quote_names(list(path_of_layer))}; give the axes= that sensitivity was given."
        )
    return {path_of_layer[name] for name in table.weights}


def _prune_layers(
    params: Params,
    table: Sensitivity,
    rates: Mapping[str, float],
    pruned_paths: set[str],
    criterion: Criterion,
    pattern: Pattern,
    axes: AxesTree | None,
    signals: Mapping[str, Any],
) -> tuple[Params, Masks]:
    """The parameters with each layer pruned to its sparsity, and their masks."""

    def prunable(path: str, _: Any) -> bool:
        return path in pruned_paths

    if not any(rates.values()):
        return params, masks_lib.make(params, prunable)
    removed = sum(table.weights[name] * rate for name, rate in rates.items())
    schedule = schedules.one_shot(sparsity=removed / sum(table.weights.values()))
    allocation = by_path({f"^{re.escape(name)}$": rate for name, rate in rates.items()})
    method = Method(criterion, schedule=schedule, pattern=pattern, allocation=allocation)
    return prune(params, method, prunable=prunable, axes=axes, **signals)
