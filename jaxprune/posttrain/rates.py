"""How much of each kernel is removed."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxprune import trees
from jaxprune.checks import expression
from jaxprune.posttrain.plan import Plan

__all__ = ["Rates", "by_path", "of_plan"]

Rates = float | Mapping[str, float] | Callable[[Plan], Sequence[float]] | Sequence[float]


def of_plan(rates: Any, plan: Plan) -> list[float]:
    """Returns the sparsity of each kernel of a plan.

    Args:
      rates: one number for all; numbers by regular expression (`by_path`); a function of the plan, or what it
        would return: one number per kernel.
      plan: that they are for.
    """
    if callable(rates):
        rates = rates(plan)
    if isinstance(rates, Mapping):
        rates = by_path(rates)(plan)
    if isinstance(rates, Sequence):
        found = [float(rate) for rate in rates]
        if len(found) != len(plan.kernels):
            raise ValueError(
                f"posttrain: {len(found)} rates were given, but the plan has {len(plan.kernels)} kernels."
            )
        return found
    return [float(rates)] * len(plan.kernels)


def by_path(sparsities: Mapping[str, float]) -> Callable[[Plan], list[float]]:
    """Returns rates by regular expression, searched in the names of the kernels; the first that matches counts.

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
                    f"posttrain.rates.by_path: {pattern!r} matches none of {trees.some(names)}."
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
