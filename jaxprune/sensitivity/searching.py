"""Search for a sparsity of each layer, within a budget of cost or a tolerated rise of the loss."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxprune import checks, schedules, trees
from jaxprune import masks as masks_lib
from jaxprune.allocation import by_path
from jaxprune.kernel_axes import AxesTree
from jaxprune.method import Method
from jaxprune.pruning.by_method import prune
from jaxprune.sensitivity.analysis import (
    EVALUATE,
    MAGNITUDE,
    UNSTRUCTURED,
    Evaluate,
    Sensitivity,
    check_budget,
    costs_of_layers,
    finite_loss,
    sensitivity,
)
from jaxprune.sensitivity.layers import layers_by_path
from jaxprune.types import Criterion, Masks, Params, Pattern

__all__ = ["SearchResult", "search"]


class SearchResult(NamedTuple):
    """The sparsities that a search has found, their cost and loss.

    Attributes:
      rates: sparsity by name of the layer, for `jaxprune.allocation.by_path`.
      cost: fraction of the cost that is left.
      loss: of the network that is pruned to these rates.
      predicted: the dense loss plus the rises of each layer alone.
      tried: (fraction of the cost, loss) of all networks that were tried.
    """

    rates: dict[str, float]
    cost: float
    loss: float
    predicted: float
    tried: list[tuple[float, float]]


def search(
    evaluate: Evaluate,
    params: Params,
    table: Sensitivity,
    *,
    budget: float | None = None,
    tolerance: float | None = None,
    measure: Evaluate | None = None,
    costs: Mapping[str, float] | None = None,
    criterion: Criterion = MAGNITUDE,
    pattern: Pattern = UNSTRUCTURED,
    axes: AxesTree | None = None,
    rounds: int = 1,
    steps: int = 10,
    progress: Callable[[int], Any] | None = None,
    **signals: Any,
) -> tuple[SearchResult, Params, Masks]:
    """Searches for a sparsity of each layer, within a budget of cost or a tolerated rise of the loss.

    Args:
      evaluate: parameters -> the loss; the same function as for `sensitivity`.
      params: tree of arrays, trained.
      table: the result of `sensitivity`.
      budget: fraction of the cost that may be left, in (0, 1]. Rounding to whole units may exceed it by half
        a unit of each layer.
      tolerance: instead of a budget, the rise of `measure` that is allowed, 0 or above. Bisection finds the
        lowest cost within this tolerance.
      measure: parameters -> the number to which `tolerance` refers, such as the error; `None`: the loss.
      costs: name -> cost of the dense layer, such as its operations; `None`: its number of weights.
      criterion: scores the weights; the weights with the lowest scores are pruned.
      pattern: which weights are removed together and which compete.
      axes: the same as for `sensitivity`.
      rounds: number of refinements. Each repeats the analysis with the other layers pruned as in the best
        solution so far, and chooses sparsities again; the best of all networks is returned. A round costs as
        many evaluations as the analysis. Ignored with `tolerance`.
      steps: number of steps of the bisection.
      progress: called with the number of networks measured, after each.
      **signals: signals that the criterion reads, by keyword.

    Returns:
      (`SearchResult`, pruned parameters, masks).

    Raises:
      TypeError: if an argument is of the wrong kind.
      ValueError: unless exactly one of budget and tolerance is given and in its range; if the table is of
        other layers, a layer has no cost, or a loss is no finite number.

    >>> import jax.numpy as jnp
    >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 5.0]])}
    >>> loss = lambda p: float(abs(3 - p["a"].sum()) + abs(8 - p["b"].sum()))
    >>> result, pruned, _ = search(loss, params, sensitivity(loss, params, [0.5]), budget=0.75)
    >>> result.rates, result.cost, pruned["a"]
    ({'a': 0.5, 'b': 0.0}, 0.75, Array([[0., 2.]], dtype=float32))
    """
    if (budget is None) == (tolerance is None):
        raise ValueError("search: give either budget= (of the cost) or tolerance= (of the loss).")
    checks.check("search", evaluate=(evaluate, EVALUATE), params=(params, checks.TREE))
    checks.check("search", rounds=(rounds, checks.INTEGER), steps=(steps, checks.INTEGER))
    checks.check(
        "search",
        table=(table, _TABLE),
        budget=(budget, checks.optional(checks.NUMBER)),
        tolerance=(tolerance, checks.optional(checks.NUMBER)),
        measure=(measure, checks.optional(EVALUATE)),
    )
    if rounds < 0 or steps < 0:
        raise ValueError(f"search(rounds={rounds}, steps={steps}): 0 or more are needed.")
    if budget is not None:
        check_budget("search", budget)
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(
            f"search(tolerance={tolerance}): a rise of the loss, 0 or above, is needed."
        )
    pruned_paths = _check_table(table, params, axes)
    costs = costs_of_layers("search", table.weights, costs)
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
        loss = finite_loss("search", evaluate, pruned, "the network pruned to these rates")
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
    first_measure = finite_loss("search", measure, params, "the network as it is")
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


_TABLE = checks.Kind(
    "a Sensitivity",
    lambda value: isinstance(value, Sensitivity),
    lambda _: "jaxprune.sensitivity.sensitivity(evaluate, params, sparsities) makes one",
)


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
        for layers in layers_by_path(params, axes).values()
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
