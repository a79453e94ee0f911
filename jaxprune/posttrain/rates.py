"""Sparsities per kernel: one for all, by path, by depth of the block, by outliers or by measured errors."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import trees
from jaxprune.allocation import knapsack
from jaxprune.calls import text
from jaxprune.checks import INTEGER, NUMBER, Kind, check, expression, is_function, takes
from jaxprune.patterns import unstructured
from jaxprune.posttrain.contests import contest
from jaxprune.posttrain.errors import output_error
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.solvers.solver import SOLVER, Solver, statistics_read_by
from jaxprune.posttrain.work import PruningState
from jaxprune.wording import counted

__all__ = ["by_path", "measured", "monotone", "of_plan", "owl"]


def __dir__() -> list[str]:
    return sorted(__all__)


Gather = Callable[..., Any]


def _is_many(value: Any) -> bool:
    """Returns whether a value is a list, a tuple or an array with axes."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_numbers(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return all(map(NUMBER.fits, value)) if _is_many(value) else NUMBER.fits(value)


_NUMBERS = Kind(
    "a fraction for each kernel, or one for all",
    _is_numbers,
    lambda _: "have the function of the plan return a list of numbers",
)
RATES = Kind(
    "a fraction, several, or a function of the plan",
    lambda value: _is_numbers(value) or is_function(value),
    lambda value: (
        NUMBER.remedy(value)
        if isinstance(value, str)
        else "such as 0.5, {'mlp': 0.5, '.*': 0.0} or rates.owl(0.5)"
    ),
)


def of_plan(
    rates: Any, plan: Plan, work: PruningState | None, gather: Gather | None
) -> list[float]:
    """Returns the sparsity of each kernel of a plan.

    Args:
      rates: fraction of the weights removed: one number for all; numbers by regular expression (`by_path`);
        one number per kernel; or a function that returns those, of the plan, or of the plan, the parameters
        at work and `gather`.
      plan: the plan, with its kernels.
      work: holds the parameters; `None`: for rates that need none.
      gather: names of statistics -> by kernel and name, statistics of the network as it is; `None` likewise.

    Returns:
      Fractions of the weights removed, in the order of `plan.kernels`.

    Raises:
      ValueError: if there are more or fewer numbers than kernels.

    >>> from jaxprune.posttrain import plan
    >>> apply, x = (lambda params, x: x @ params["a"] @ params["b"]), jnp.ones((1, 2))
    >>> params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    >>> two_kernels = plan(apply, params, x)
    >>> of_plan([0.25, 0.5], two_kernels, PruningState(two_kernels, [*params.values()]), gather=None)
    [0.25, 0.5]
    """
    if isinstance(rates, Mapping):
        rates = by_path(rates)
    if callable(rates):
        if not (takes(rates, 3) or takes(rates, 1)):
            raise TypeError(
                f"posttrain(rates={text(rates)}): a function of the plan is needed, or of the plan, the "
                "parameters at work and gather; this one takes other arguments."
            )
        rates = rates(plan, work, gather) if takes(rates, 3) else rates(plan)
        check("posttrain", rates=(rates, _NUMBERS))
    if _is_many(rates):
        sparsities = [float(sparsity) for sparsity in rates]
        if len(sparsities) != len(plan.kernels):
            raise ValueError(
                f"posttrain: {counted(len(sparsities), 'rate was', 'rates were')} given, but the plan has "
                f"{counted(len(plan.kernels), 'kernel')}."
            )
        return sparsities
    return [float(rates)] * len(plan.kernels)


def by_path(sparsities: Mapping[str, float]) -> Callable[[Plan], list[float]]:
    """Returns rates by regular expression, searched in the names of kernels; the first match counts.

    Args:
      sparsities: regular expression -> fraction of the weights removed; each kernel must match one.

    Returns:
      A function of the plan, for `rates=` of `jaxprune.posttrain.prune`.

    Raises:
      ValueError: when it is used, if an expression matches no kernel, or a kernel matches none.

    >>> from jaxprune.posttrain import plan
    >>> apply, x = (lambda params, x: x @ params["mlp"] @ params["head"]), jnp.ones((1, 2))
    >>> params = {"mlp": jnp.ones((2, 2)), "head": jnp.ones((2, 2))}
    >>> by_path({"head": 0.0, ".*": 0.5})(plan(apply, params, x))  # in the order of the program
    [0.5, 0.0]
    """
    if not isinstance(sparsities, Mapping) or not sparsities:
        raise ValueError(
            f"posttrain.rates.by_path: fractions by regular expression are needed, not {sparsities!r}; such "
            "as {'mlp': 0.5, '.*': 0.0}."
        )
    for pattern, sparsity in sparsities.items():
        expression("posttrain.rates.by_path", pattern)
        _check_fraction(f"by_path({pattern!r})", sparsity)

    def rates(plan: Plan) -> list[float]:
        names = [kernel.name for kernel in plan.kernels]
        for pattern in sparsities:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(
                    f"posttrain.rates.by_path: {pattern!r} matches none of {trees.quote_names(names)}."
                )
        kernel_rates: list[float] = []
        for name in names:
            matching = [rate for pattern, rate in sparsities.items() if re.search(pattern, name)]
            if not matching:
                raise ValueError(
                    f"posttrain.rates.by_path: {name!r} matches no expression; add one such as '.*'."
                )
            kernel_rates.append(float(matching[0]))
        return kernel_rates

    return rates


def _check_fraction(who: str, sparsity: Any) -> None:
    check(f"posttrain.rates.{who}", sparsity=(sparsity, NUMBER))
    if not 0 <= float(sparsity) < 1:
        raise ValueError(
            f"posttrain.rates.{who}: sparsity={sparsity} is not in [0, 1); it is the fraction removed."
        )


def monotone(sparsity: float, *, step: float) -> Callable[[Plan], list[float]]:
    r"""Returns rates that grow with depth, because errors of early blocks pass through all later ones.

    The rate of block $b$ is $s + \beta (b - \bar b)$, where $\bar b$ is chosen so that the fraction $s$ of
    the weights of all blocks together is removed.

    Args:
      sparsity: $s$, fraction of all weights removed.
      step: $\beta$, the difference in rate between a block and the block before it.

    Returns:
      A function of the plan, for `rates=` of `jaxprune.posttrain.prune`.

    Raises:
      ValueError: when it is used, if the rate of a block would be below 0, or 1 or above.

    References:
      Huang et al., "Determining Layer-wise Sparsity for Large Language Models Through a Theoretical
      Perspective" (2025). Departure: the mean is over weights.

    >>> from jaxprune.posttrain import plan
    >>> apply, x = (lambda params, x: x @ params["a"] @ params["b"]), jnp.ones((1, 2))
    >>> params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    >>> monotone(0.5, step=0.25)(plan(apply, params, x))
    [0.375, 0.625]
    """

    _check_fraction("monotone", sparsity)
    check("posttrain.rates.monotone", step=(step, NUMBER))

    def rates(plan: Plan) -> list[float]:
        blocks = np.array(plan.blocks, np.float64)
        shift = step * (blocks - np.average(blocks, weights=_weight_counts(plan)))
        return _checked_rates("monotone", sparsity + shift)

    return rates


def owl(
    sparsity: float, *, outlier: float = 5.0, spread: float = 0.08
) -> Callable[[Plan, PruningState, Gather], list[float]]:
    r"""Returns rates by outliers: blocks with more outliers lose fewer weights.

    The scores of a block are $|w_{ij}| \|x_i\|_2$; an outlier is a score above $M$ times their mean. The
    density of block $b$ is $1 - s + \delta_b$, where $\delta_b$ is linear in the block's fraction of
    outliers, has a range of $2 \lambda$, and is such that all blocks together keep the fraction $1 - s$ of
    their weights. The input norms are gathered in one pass of the dense network.

    Args:
      sparsity: $s$, fraction of all weights removed.
      outlier: $M$, the multiple of the mean score above which a score is an outlier, above 0.
      spread: $\lambda$, half the range of the densities, within [0, 0.5].

    Returns:
      A function of the plan, the parameters at work and `gather`, for `rates=` of `jaxprune.posttrain.prune`.

    Raises:
      ValueError: if an argument is out of its range; when it is used, if a block would lose less than
        nothing, or everything.

    References:
      Yin et al., "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High
      Sparsity" (2024). Departure: the mean of $\delta$ is over weights, so that the budget is kept.

    >>> from jaxprune.posttrain import magnitude
    >>> apply, x = (lambda params, x: x @ params["a"] @ params["b"]), jnp.ones((1, 8))
    >>> params = {"a": jnp.ones((8, 8)).at[0].set(64.0), "b": jnp.ones((8, 8))}  # "a" has outliers
    >>> _, masks = magnitude(apply, params, [x], sparsity=owl(0.5, outlier=5.0, spread=0.125))
    >>> [int(mask.sum()) for mask in masks.values()]  # of 64 weights: densities 0.625 and 0.375
    [40, 24]
    """
    _check_fraction("owl", sparsity)
    check("posttrain.rates.owl", outlier=(outlier, NUMBER), spread=(spread, NUMBER))
    if not outlier > 0 or not 0 <= spread <= 0.5:
        raise ValueError(
            f"posttrain.rates.owl(outlier={outlier}, spread={spread}): above 0, and within [0, 0.5], are "
            "needed."
        )

    def rates(plan: Plan, state: PruningState, gather: Gather) -> list[float]:
        moments = gather(("input_moments",))
        # Blocks that have no kernel are left out.
        _, blocks = np.unique(plan.blocks, return_inverse=True)
        sizes = _weight_counts(plan)

        def kernel_and_moments(kernel_index: int) -> tuple[jax.Array, jax.Array]:
            kernel = plan.kernels[kernel_index]
            return state.read(kernel), moments[kernel.name]["input_moments"]

        importance_sums = np.zeros(blocks.max() + 1)
        for kernel_index, block in enumerate(blocks):
            importance_sums[block] += float(_importance_sum(*kernel_and_moments(kernel_index)))
        weight_counts = np.bincount(blocks, sizes)
        limits = outlier * importance_sums / weight_counts
        outlier_counts = np.zeros(len(weight_counts))
        for kernel_index, block in enumerate(blocks):
            outlier_counts[block] += int(
                _outlier_count(*kernel_and_moments(kernel_index), limits[block])
            )
        outlier_shares = outlier_counts / weight_counts
        share_range = outlier_shares.max() - outlier_shares.min()
        slope = 2 * spread / share_range if share_range > 0 else 0
        density_shift = (outlier_shares - outlier_shares.min()) * slope
        density_shift -= np.average(density_shift, weights=weight_counts)
        return _checked_rates("owl", (sparsity - density_shift)[blocks])

    return rates


def measured(
    sparsity: float, *, solver: Solver, apart: float = 0.05, options: int = 5
) -> Callable[[Plan, PruningState, Gather], list[float]]:
    r"""Returns rates by measurement: each kernel is solved at several rates, and the best combination is
    chosen.

    The rates of a kernel are $s + k a$ with $k = -\lfloor n/2 \rfloor, \dots, \lfloor n/2 \rfloor$. The
    kernel is solved at each of them with statistics of the dense network; its error is $\|X \hat W - X W\|^2$
    divided by $\|X W\|^2$. A knapsack solver chooses the rates with the least sum of errors that together
    remove at least the fraction $s$ of all weights, before counts are rounded. This costs $n$ solves of each
    kernel, one pass of the dense network, and memory for the Gram matrices of all inputs at once.

    Args:
      sparsity: $s$, fraction of all weights removed at least.
      solver: a solver of `jaxprune.posttrain.prune` that removes single weights. To save time, give a fast
        one here, such as `solvers.by_criterion(criteria.wanda)`, even if `prune` uses a slow one.
      apart: $a$, the difference between two neighbouring rates, above 0.
      options: $n$, number of rates, odd, at least 3; those outside [0, 1) are left out.

    Returns:
      A function of the plan, the parameters at work and `gather`, for `rates=` of `jaxprune.posttrain.prune`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Frantar & Alistarh, "Optimal Brain Compression: A Framework for Accurate Post-Training Quantization and
      Pruning" (2022), section 6, chooses levels of layers by their errors. Departures: errors are relative,
      as outputs of layers differ in scale, and the choice is exact.

    >>> from jaxprune.posttrain import prune, plan, solvers
    >>> apply, x = (lambda params, x: x @ params["a"] @ params["b"]), jnp.eye(8)
    >>> small_tail = jnp.diag(jnp.full(8, 10.0)) + 0.01  # "a" can lose all but its diagonal
    >>> params = {"a": small_tail, "b": jnp.arange(64.0).reshape(8, 8)}
    >>> obs = solvers.sparsegpt()
    >>> rates = measured(0.5, solver=obs, apart=0.25, options=3)
    >>> result = prune(plan(apply, params, x), params, [x], solver=obs, rates=rates)
    >>> [int(mask.sum()) for mask in result.masks.values()]  # of 64 weights each
    [16, 48]
    """
    check(
        "posttrain.rates.measured",
        sparsity=(sparsity, NUMBER),
        solver=(solver, SOLVER),
        apart=(apart, NUMBER),
        options=(options, INTEGER),
    )
    if not 0 <= sparsity < 1:
        raise ValueError(f"posttrain.rates.measured(sparsity={sparsity}): [0, 1) is needed.")
    if not apart > 0 or options < 3 or options % 2 == 0:
        raise ValueError(
            f"posttrain.rates.measured(apart={apart}, options={options}): above 0, and an odd number from 3, "
            "are needed."
        )
    steps = range(-(options // 2), options // 2 + 1)
    choices = [rate for rate in (sparsity + step * apart for step in steps) if 0 <= rate < 1]
    names = tuple(dict.fromkeys((*statistics_read_by(solver), "grams")))
    if "key" in names:
        raise ValueError(
            "posttrain.rates.measured: a solver that draws gives other errors each time; choose another."
        )

    def rates(plan: Plan, state: PruningState, gather: Gather) -> list[float]:
        statistics = gather(names)
        losses: dict[str, list[float]] = {kernel.name: [] for kernel in plan.kernels}
        for kernel in plan.kernels:
            matrices = state.read(kernel)
            known = statistics[kernel.name]
            given = {name: known[name] for name in statistics_read_by(solver)}
            for rate in choices:
                of_kernel = contest(unstructured(), kernel.view.layout, rate, kernel.name)
                [solved] = solver([matrices], [of_kernel], **given)
                error = output_error(matrices, solved.kernel, known["grams"])
                losses[kernel.name].append(float(error))
        counts = dict(zip(losses, _weight_counts(plan), strict=True))
        kept = {name: [count * (1 - rate) for rate in choices] for name, count in counts.items()}
        uniform_cost = sum(count * (1 - sparsity) for count in counts.values())
        # The two are the same but for rounding.
        budget = max(uniform_cost, (1 - sparsity) * sum(counts.values()))
        chosen = knapsack(losses, kept, budget=budget)
        return [choices[chosen[kernel.name]] for kernel in plan.kernels]

    return rates


def _weight_counts(plan: Plan) -> np.ndarray:
    """Returns the number of weights of each kernel, float64."""
    return np.array([np.prod(kernel.view.layout.size) for kernel in plan.kernels], np.float64)


def _checked_rates(who: str, rates: np.ndarray) -> list[float]:
    """Returns the rates as a list, after checking that all are in [0, 1)."""
    if rates.min() < 0 or rates.max() >= 1:
        raise ValueError(
            f"posttrain.rates.{who}: blocks would lose between {rates.min():.3f} and {rates.max():.3f} of "
            "their weights; let rates differ less, or ask for another sparsity."
        )
    return [float(rate) for rate in rates]


def _importance(kernel: jax.Array, moments: jax.Array) -> jax.Array:
    """Returns |w| times the root mean square of its input."""
    return jnp.abs(kernel) * jnp.sqrt(moments)


@jax.jit
def _importance_sum(kernel: jax.Array, moments: jax.Array) -> jax.Array:
    return jnp.sum(_importance(kernel, moments))


@jax.jit
def _outlier_count(kernel: jax.Array, moments: jax.Array, limit: Any) -> jax.Array:
    return jnp.sum(_importance(kernel, moments) > limit, dtype=jnp.int32)
