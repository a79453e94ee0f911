"""How much of each kernel is removed: the same of all, by path, by outliers or depth of its block."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import trees
from jaxprune.checks import expression, takes
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.work import Work

__all__ = ["by_path", "monotone", "of_plan", "owl"]

Gather = Callable[..., Any]


def of_plan(rates: Any, plan: Plan, work: Work, gather: Gather) -> list[float]:
    """Returns the sparsity of each kernel of a plan.

    Args:
      rates: one number for all; numbers by regular expression (`by_path`); one number per kernel; or a
        function that returns those, of the plan, or of the plan, the parameters at work and `gather`.
      plan: that they are for.
      work: with the parameters.
      gather: names of statistics -> by kernel and name, statistics of the network as it is.
    """
    if isinstance(rates, Mapping):
        rates = by_path(rates)
    if callable(rates):
        rates = rates(plan, work, gather) if takes(rates, 3) else rates(plan)
    if isinstance(rates, Sequence | np.ndarray):
        found = [float(rate) for rate in rates]
        if len(found) != len(plan.kernels):
            raise ValueError(
                f"posttrain: {len(found)} rates were given, but the plan has {len(plan.kernels)} kernels."
            )
        return found
    return [float(rates)] * len(plan.kernels)


def by_path(sparsities: Mapping[str, float]) -> Callable[[Plan], list[float]]:
    """Returns rates by regular expression, searched in the names of kernels; the first that matches counts.

    Args:
      sparsities: fractions removed; each kernel must match one.

    Raises:
      ValueError: if an expression matches no kernel, or a kernel matches none.
    """
    for pattern in sparsities:
        expression("posttrain.rates.by_path", pattern)

    def rates(plan: Plan) -> list[float]:
        names = [kernel.name for kernel in plan.kernels]
        for pattern in sparsities:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(
                    f"posttrain.rates.by_path: {pattern!r} matches none of {trees.quote_names(names)}."
                )
        found: list[float] = []
        for name in names:
            own = [rate for pattern, rate in sparsities.items() if re.search(pattern, name)]
            if not own:
                raise ValueError(
                    f"posttrain.rates.by_path: {name!r} matches no expression; add one such as '.*'."
                )
            found.append(float(own[0]))
        return found

    return rates


def monotone(sparsity: float, *, step: float) -> Callable[[Plan], list[float]]:
    r"""Returns rates that grow with depth, since what early blocks do wrong, later ones carry on.

    Block $b$ of $B$ loses $s + \beta (b - \bar b)$, with $\bar b$ such that the weights of all blocks
    together lose $s$.

    Args:
      sparsity: $s$.
      step: $\beta$, by how much a block loses more than the one before.

    References:
      Huang et al., "Determining Layer-wise Sparsity for Large Language Models Through a Theoretical
      Perspective" (2025). Departure: the mean is over weights.

    Raises:
      ValueError: when it is used, if a block would lose less than nothing, or everything.
    """

    def rates(plan: Plan) -> list[float]:
        blocks = np.array(plan.blocks, np.float64)
        shift = step * (blocks - np.average(blocks, weights=_sizes(plan)))
        return _within("monotone", sparsity + shift)

    return rates


def owl(
    sparsity: float, *, outlier: float = 5.0, spread: float = 0.08
) -> Callable[[Plan, Work, Gather], list[float]]:
    r"""Returns rates by outliers: blocks with more of them lose less.

    The density of block $b$ is $1 - s + \delta_b$, with $\delta_b$ in a range of $2 \lambda$, linear in the
    share of the block's $|w_{ij}| \|x_i\|_2$ above $M$ times their mean, and such that all blocks together
    keep $1 - s$ of their weights. One pass of the dense network gathers what is needed.

    Args:
      sparsity: $s$.
      outlier: $M$.
      spread: $\lambda$.

    References:
      Yin et al., "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High
      Sparsity" (2024). Departure: the mean of $\delta$ is over weights, so that the budget is kept.

    Raises:
      ValueError: when it is used, if a block would lose less than nothing, or everything.
    """
    if not outlier > 0 or not 0 <= spread <= 0.5:
        raise ValueError(
            f"posttrain.rates.owl(outlier={outlier}, spread={spread}): above 0, and within [0, 0.5], are "
            "needed."
        )

    def rates(plan: Plan, work: Work, gather: Gather) -> list[float]:
        moments = gather(("inputs",))
        blocks = np.array(plan.blocks)
        sizes = _sizes(plan)
        worth = lambda k: (work.read(plan.kernels[k]), moments[plan.kernels[k].name]["inputs"])
        totals = np.zeros(blocks.max() + 1)
        for k, block in enumerate(blocks):
            totals[block] += float(_total(*worth(k)))
        weights = np.bincount(blocks, sizes)
        limits = outlier * totals / weights
        counts = np.zeros(len(weights))
        for k, block in enumerate(blocks):
            counts[block] += int(_above(*worth(k), limits[block]))
        shares = counts / weights
        width = shares.max() - shares.min()
        delta = (shares - shares.min()) * (2 * spread / width if width > 0 else 0)
        delta -= np.average(delta, weights=weights)
        return _within("owl", (sparsity - delta)[blocks])

    return rates


def _sizes(plan: Plan) -> np.ndarray:
    return np.array([np.prod(kernel.view.layout.size) for kernel in plan.kernels], np.float64)


def _within(who: str, rates: np.ndarray) -> list[float]:
    if rates.min() < 0 or rates.max() >= 1:
        raise ValueError(
            f"posttrain.rates.{who}: blocks would lose between {rates.min():.3f} and {rates.max():.3f} of "
            "their weights; let rates differ less, or ask for another sparsity."
        )
    return [float(rate) for rate in rates]


def _worth(kernel: jax.Array, moments: jax.Array) -> jax.Array:
    return jnp.abs(kernel) * jnp.sqrt(moments)


@jax.jit
def _total(kernel: jax.Array, moments: jax.Array) -> jax.Array:
    return jnp.sum(_worth(kernel, moments))


@jax.jit
def _above(kernel: jax.Array, moments: jax.Array, limit: Any) -> jax.Array:
    return jnp.sum(_worth(kernel, moments) > limit, dtype=jnp.int32)
