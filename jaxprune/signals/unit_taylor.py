"""The importance of coupled units: squares of first-order Taylor terms, batch by batch."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune.arrays.precision import widen
from jaxprune.calls import comparable, text
from jaxprune.signals.batches import Progress, mean_over
from jaxprune.signals.gradients import gradient
from jaxprune.signals.leaves import are_floating, chosen_leaves
from jaxprune.signals.losses import Loss, check_function
from jaxprune.types import Params
from jaxprune.units.coupling import Coupled

__all__ = ["unit_taylor"]


def unit_taylor(
    loss: Loss,
    params: Params,
    batches: Iterable[Any],
    units: Coupled,
    *,
    progress: Progress | None = None,
) -> Params:
    r"""Returns the importance of units: $\frac{1}{B} \sum_b (\sum_{i \in u} w_i\, g_{b,i})^2$, over batches.

    The inner sum is the derivative of batch $b$'s loss with respect to a gate on the unit. It is squared
    before batches are averaged: the square of a mean gradient vanishes at a minimum. `units.over` chooses the
    weights of the inner sum. "scales" puts the gate on the scale and bias of a BatchNorm,
    $\gamma g_\gamma + \beta g_\beta$. "outputs" puts it on the filter. If a BatchNorm follows, that sum is 0
    in training mode, as the normalised outputs do not depend on the size of the filter; in evaluation mode it
    measures stale statistics.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; each batch is weighted by its number of examples.
      units: from `jaxprune.structured.coupled`, over "outputs" or "scales"; the pattern that is pruned.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`. The importance of a unit is divided evenly among its weights in the inner sum, so
      that they add up to it; `None` at leaves without such weights. The criterion `unit_taylor` reads it.

    Raises:
      TypeError: `units` is not what `jaxprune.structured.coupled` returns.
      ValueError: the units do not fit the parameters, or a batch holds NaN.

    References:
      Molchanov, Mallya, Tyree, Frosio & Kautz, "Importance Estimation for Neural Network Pruning" (2019),
      Taylor-FO and, over "scales", Taylor-FO-BN. Departure: a mean over the batches given, where the authors'
      code averages with momentum between its prunings.

    >>> from jaxprune.structured import coupled, trace
    >>> fn = lambda p, x: x @ p["in"] @ p["out"]
    >>> params, x = {"in": jnp.array([[1.0, 2.0]]), "out": jnp.ones((2, 1))}, jnp.ones((1, 1))
    >>> units = coupled(trace(fn, params, x), over="outputs")
    >>> loss = lambda params, x: jnp.mean(fn(params, x))  # gradients x and x: +3 and -1 cancel in part
    >>> unit_taylor(loss, params, [3 * x, -x], units)["in"]  # (3^2 + 1^2) / 2 and (6^2 + 2^2) / 2
    Array([[ 5., 20.]], dtype=float32)
    """
    check_function("unit_taylor", params, loss=loss)
    if not isinstance(units, Coupled):
        raise TypeError(
            f"unit_taylor(units={text(units)}): what jaxprune.structured.coupled returns is needed."
        )
    named_leaves = zip(masks_lib.paths(params), jax.tree.leaves(params), strict=True)
    problem = units.check({path: jnp.shape(leaf) for path, leaf in named_leaves})
    if problem is not None:
        raise ValueError(f"unit_taylor: {problem}.")
    covered_paths = dict.fromkeys(units.covered(params), True)
    # What cannot be spread is refused before data is read.
    units.spread([jnp.zeros(group.size) for group in units.groups], covered_paths)
    static = (loss, _Static(units))
    importances = mean_over(
        _squares, params, batches, static=static, progress=progress, who="unit_taylor"
    )
    by_path = units.spread(importances, covered_paths)
    leaves = [by_path.get(path) for path in masks_lib.paths(params)]
    return jax.tree.structure(params).unflatten(leaves)


class _Static:
    """A pattern as a static argument of `jit`: equal patterns compile once."""

    def __init__(self, units: Coupled) -> None:
        self.summed = units._replace(reduce="sum", normalize="none")
        self._same = comparable(self.summed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self._same == other._same

    def __hash__(self) -> int:
        return hash(self._same)


def _squares(loss: Loss, units: _Static, params: Params, batch: Any) -> list[jax.Array]:
    is_floating = are_floating(params)
    grads = gradient(loss, params, batch, is_floating)
    paths = [
        path
        for path, is_chosen in zip(masks_lib.paths(params), is_floating, strict=True)
        if is_chosen
    ]
    products = [
        widen(weights) * widen(leaf_gradients)
        for weights, leaf_gradients in zip(chosen_leaves(params, is_floating), grads, strict=True)
    ]
    return [total**2 for total in units.summed.units(dict(zip(paths, products, strict=True)))]
