"""Sensitivity analysis: prunes one layer at a time to several sparsities, and measures the network's loss."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import checks, criteria, patterns, schedules
from jaxprune import masks as masks_lib
from jaxprune.allocation import knapsack
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.method import Method
from jaxprune.pruning.by_method import prune
from jaxprune.sensitivity.layers import layers_by_path, with_layer
from jaxprune.trees.alike import check_alike
from jaxprune.types import Criterion, Params, Pattern
from jaxprune.units.coupling import Coupled

__all__ = [
    "EVALUATE",
    "MAGNITUDE",
    "UNSTRUCTURED",
    "Evaluate",
    "Sensitivity",
    "check_budget",
    "costs_of_layers",
    "finite_loss",
    "sensitivity",
]

MAGNITUDE = criteria.magnitude
UNSTRUCTURED = patterns.unstructured()
Evaluate = Callable[[Params], float]


class Sensitivity(NamedTuple):
    """The losses of a network with each layer alone pruned to several sparsities.

    Attributes:
      dense: the loss of the unpruned network.
      weights: by name of each prunable layer, the number of its weights. A layer has the path of its leaf for
        a name, or where layers are stacked in one leaf, the path with an index: `"layers/kernel[2]"`.
      sparsities: by name, the fractions of the layer that were removed, ascending from 0; patterns may round
        them.
      losses: by name, the loss of the network at each of these sparsities.
    """

    dense: float
    weights: dict[str, int]
    sparsities: dict[str, list[float]]
    losses: dict[str, list[float]]

    def rise(self, name: str, sparsity: float) -> float:
        """Returns the rise of the loss above `dense` if this layer alone is pruned to a sparsity.

        Between two measured sparsities it is interpolated linearly in the logarithm of the fraction kept.

        Args:
          name: of the layer.
          sparsity: fraction removed of the layer, in [0, 1).
        """
        pairs = zip(self.sparsities[name], self.losses[name], strict=True)
        measured = [pair for pair in pairs if pair[0] < 1]
        logarithms = [-np.log1p(-removed) for removed, _ in measured]
        losses = [loss for _, loss in measured]
        return float(np.interp(-np.log1p(-sparsity), logarithms, losses)) - self.dense

    def rates(
        self, budget: float, costs: Mapping[str, float] | None = None, *, options: int = 60
    ) -> dict[str, float]:
        """Returns the sparsities within a budget whose predicted rise of the loss is least.

        The prediction assumes that the rise with several pruned layers is the sum of the rises of each layer
        alone. Between two measured sparsities the rise is interpolated.

        Args:
          budget: fraction of the cost that may be left, in (0, 1].
          costs: name -> cost of the dense layer, such as its operations; `None`: its number of weights.
          options: number of sparsities per layer to choose from, between 0 and the highest measured one.

        Returns:
          Name -> sparsity, for `jaxprune.allocation.by_path`.

        Raises:
          ValueError: if the cost is above the budget even at the highest measured sparsities, the budget is
            out of its range, or a layer has no cost.
        """
        check_budget("Sensitivity.rates", budget)
        costs = costs_of_layers("Sensitivity.rates", self.weights, costs)
        choices: dict[str, list[float]] = {}
        for name, measured in self.sparsities.items():
            # A layer that lost all is no option.
            row = [sparsity for sparsity in measured if sparsity < 1]
            grid = 1 - np.geomspace(1, 1 - row[-1], options)
            choices[name] = sorted({*row, *(float(sparsity) for sparsity in grid[1:-1])})
        rises = {name: [self.rise(name, s) for s in row] for name, row in choices.items()}
        costs_left = {name: [costs[name] * (1 - s) for s in row] for name, row in choices.items()}
        total_budget = budget * sum(costs[name] for name in self.weights)
        chosen = knapsack(rises, costs_left, total_budget)
        return {name: choices[name][index] for name, index in chosen.items()}


def sensitivity(
    evaluate: Evaluate,
    params: Params,
    sparsities: Sequence[float],
    *,
    criterion: Criterion = MAGNITUDE,
    pattern: Pattern = UNSTRUCTURED,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
    around: Params | None = None,
    progress: Callable[[int], Any] | None = None,
    measured: Callable[[str, float], Any] | None = None,
    **signals: Any,
) -> Sensitivity:
    """Returns the loss of the network for each layer and sparsity, with this layer alone pruned.

    Args:
      evaluate: parameters -> the loss, a number. Use validation data, not the test set.
      params: tree of arrays, trained.
      sparsities: fractions removed of each layer, ascending; the results always include 0.
      criterion: scores the weights; the weights with the lowest scores are pruned.
      pattern: which weights are removed together and which compete.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: leaves with two axes are taken for `[inputs, outputs]`, with four and a small window for `[h,
        w, inputs, outputs]`; others are refused if inputs and outputs matter.
        Layers that are stacked in one leaf are pruned one at a time.
      around: a tree like `params` with the values of the other layers while one is pruned; `None`: `params`.
        `evaluate` gets trees in its containers.
      progress: called with the number of evaluations done, after each.
      measured: called with a layer's name and the requested sparsity, after each call of `evaluate` on the
        network with this layer pruned. The caller can so store other measurements of this network.
      **signals: signals that the criterion reads, by keyword.

    Returns:
      A `Sensitivity`. Its method `rates` gives the best sparsities within a budget, predicted from the rises
      of single layers.

    Raises:
      ValueError: if the sparsities are not ascending fractions, the pattern couples leaves, `around` has
        other leaves or shapes than `params`, or a loss is no finite number.

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
    checks.check("sensitivity", evaluate=(evaluate, EVALUATE), params=(params, checks.TREE))
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
    if around is not None:
        remedy = "give weights of the same model"
        check_alike("sensitivity", "weights around", params, around, remedy)
    layers_of_leaves = layers_by_path(params, axes)
    masks = masks_lib.make(params, prunable, axes=axes)
    sizes = {row["leaf"]: row["weights"] for row in masks_lib.summary(masks, axes)}
    others = params if around is None else around
    dense_loss = finite_loss("sensitivity", evaluate, params, "the network as it is")
    evaluations_done = 1
    table = Sensitivity(
        dense_loss,
        sizes,
        {name: [0.0] for name in sizes},
        {name: [dense_loss] for name in sizes},
    )
    for path in masks_lib.paths(masks):
        for layer in layers_of_leaves[path] if around is not None else ():
            network = f"the network with {layer.name!r} alone as it was"
            table.losses[layer.name][0] = finite_loss(
                "sensitivity", evaluate, with_layer(others, params, layer), network
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
                loss = finite_loss(
                    "sensitivity", evaluate, with_layer(others, pruned, layer), network
                )
                table.losses[layer.name].append(loss)
                evaluations_done += 1
                if measured is not None:
                    measured(layer.name, sparsity)
                if progress is not None:
                    progress(evaluations_done)
    return table


EVALUATE = checks.Kind(
    "a function",
    checks.is_function,
    lambda _: "(params) -> the loss, on data that are not the test set's",
)
_FRACTIONS = checks.Kind(
    "a list of fractions",
    lambda value: isinstance(value, Iterable) and not isinstance(value, str | Mapping),
    lambda _: "such as [0.5, 0.8, 0.9], ascending",
)


_COSTS = checks.Kind(
    "numbers by name",
    lambda value: isinstance(value, Mapping),
    lambda _: "such as {'fc1/kernel': 2.0}, one of each layer",
)


def check_budget(who: str, budget: float) -> None:
    """Raises `ValueError` if a budget is no fraction of the cost."""
    checks.check(who, budget=(budget, checks.NUMBER))
    if not 0 < budget <= 1:
        raise ValueError(f"{who}(budget={budget}): a fraction of the cost in (0, 1] is needed.")


def costs_of_layers(
    who: str, weights: Mapping[str, int], costs: Mapping[str, float] | None
) -> dict[str, float]:
    """Returns the cost of each layer; refuses a layer without one, and costs that add up to none.

    Args:
      who: the function that was called.
      weights: by name of each layer, the number of its weights.
      costs: by name; `None`: the weights.
    """
    if costs is None:
        return dict(weights)
    checks.check(who, costs=(costs, _COSTS))
    for name in weights:
        try:
            cost = costs[name]
        except KeyError:
            cost = None
        if cost is None or not 0 <= cost < np.inf:
            raise ValueError(
                f"{who}(costs=): the layer {name!r} has {cost}; a number, 0 or above, is needed for each of "
                "the table."
            )
    if not any(costs[name] for name in weights):
        raise ValueError(f"{who}(costs=): every layer costs 0; give at least one above 0.")
    return {name: costs[name] for name in weights}


def finite_loss(who: str, evaluate: Evaluate, params: Params, network: str) -> float:
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
