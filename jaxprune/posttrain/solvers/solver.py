"""The type of solvers, and the solver made of any criterion."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks, updates
from jaxprune.calls import Part, makes, text, uncalled
from jaxprune.method import Method
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved, pattern_view
from jaxprune.pruning.scoring import scores_of
from jaxprune.types import Criterion, Keep, Units

__all__ = [
    "KNOWN",
    "REFIT",
    "SOLVER",
    "Solver",
    "best_mask",
    "by_criterion",
    "statistics_read_by",
]

KNOWN = ("input_moments", "grams", "key")  # statistics that a solver may read


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solver(Part):
    """A function that makes masks and weights of kernels that share an input; it is called like it.

    Attributes:
      solve: `(kernels, contests, *, <statistics>, **_) -> list of Solved`. Kernels are `[layers, inputs,
        outputs]`, in float32 or wider; `input_moments` are mean squares `[layers, inputs, 1]`, `grams` mean
        products `[layers, inputs, inputs]`, `key` is a PRNG key.
      names: of the statistics that it reads; `None`: its signature tells.
      made_by: the call of the factory that made it, by which it prints; set by the factory.
    """

    solve: Callable[..., list[Solved]]
    names: tuple[str, ...] | None = None

    def __call__(
        self, kernels: Sequence[jax.Array], contests: Sequence[Contest], **statistics: Any
    ) -> list[Solved]:
        """Returns mask and weights of each kernel.

        Args:
          kernels: `[layers, inputs, outputs]` each.
          contests: which weights compete, for each kernel.
          **statistics: those that `solve` names.
        """
        return self.solve(kernels, contests, **statistics)


def _masks_parameter(value: Any) -> inspect.Parameter | None:
    """Returns the parameter by which a solver is given masks; `None` if it chooses its own."""
    function = value.solve if isinstance(value, Solver) else value
    return inspect.signature(function).parameters.get("masks")


def _needs_masks(value: Any) -> bool:
    parameter = _masks_parameter(value)
    return parameter is not None and parameter.default is parameter.empty


def _is_solver(value: Any) -> bool:
    return isinstance(value, Solver) or (checks.is_function(value) and checks.takes(value, 2))


def _solver_remedy(value: Any) -> str:
    if makes(value) is Solver:
        return f"call it: {uncalled(value)}"
    if _is_solver(value):
        return "it refits weights under given masks: give it as refit= of by_criterion or swaps"
    if isinstance(value, Method) or checks.is_function(value):
        return "a criterion makes one: jaxprune.posttrain.solvers.by_criterion(criterion)"
    return "call one of jaxprune.posttrain.solvers, such as sparsegpt()"


def _refit_remedy(value: Any) -> str:
    return _solver_remedy(value) if makes(value) is Solver else "such as solvers.least_squares()"


SOLVER = checks.Kind(
    "a solver",
    lambda value: _is_solver(value) and not _needs_masks(value),
    _solver_remedy,
)
REFIT = checks.Kind(
    "a solver of the weights under given masks",
    lambda value: _is_solver(value) and _masks_parameter(value) is not None,
    _refit_remedy,
)


def statistics_read_by(solver: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names of the statistics that a solver reads, from its signature; any function will do.

    >>> statistics_read_by(lambda kernels, contests, *, grams, **_: [])
    ('grams',)
    """
    if isinstance(solver, Solver):
        if solver.names is not None:
            return solver.names
        solver = solver.solve
    parameters = list(inspect.signature(solver).parameters.values())[2:]
    wanted_names = [
        parameter.name
        for parameter in parameters
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name != "masks"
    ]
    unknown_names = [
        parameter.name
        for parameter in parameters
        if parameter.name in wanted_names and parameter.default is parameter.empty
    ]
    unknown_names = [name for name in unknown_names if name not in KNOWN]
    if unknown_names:
        raise TypeError(
            f"{text(solver)}: the statistic {unknown_names[0]!r} is not known; a solver may read "
            f"{', '.join(KNOWN)}."
        )
    return tuple(name for name in KNOWN if name in wanted_names)


@factory
def by_criterion(criterion: Criterion, *, refit: Any = None) -> Solver:
    """Returns the solver that keeps the weights with the highest scores, by any criterion.

    Args:
      criterion: one of `jaxprune.criteria` or a function like them; it may read `input_moments`, `grams`,
        `key` and `axes`.
      refit: solver of the weights under given masks, such as `least_squares()`, or a function like it with an
        argument `masks`; `None`: kept weights stay as they are.

    Returns:
      `(kernels, contests, *, <the criterion's statistics>) -> list of Solved`.

    Raises:
      ValueError: if the criterion reads a signal that is not gathered segment by segment.
      TypeError: if `criterion` is none, or `refit` chooses masks of its own.

    >>> from jaxprune import criteria
    >>> by_criterion(criteria.wanda)
    by_criterion(wanda)
    """
    checks.check(
        "by_criterion", criterion=(criterion, _FUNCTION), refit=(refit, checks.optional(REFIT))
    )
    required_signals = [
        parameter.name
        for parameter in list(inspect.signature(criterion).parameters.values())[1:]
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    ]
    missing_signals = [name for name in required_signals if name not in KNOWN]
    if missing_signals:
        raise ValueError(
            f"by_criterion({text(criterion)}): it reads {missing_signals[0]!r}, which is not gathered "
            "segment by segment; prune with jaxprune.prune_on, where the network fits at once."
        )
    names = tuple(name for name in KNOWN if name in required_signals)
    refit_names = () if refit is None else statistics_read_by(refit)
    refit_names = tuple(name for name in refit_names if name not in names)

    def solve(
        kernels: Sequence[jax.Array], contests: Sequence[Contest], **statistics: Any
    ) -> list[Solved]:
        known_statistics = {name: statistics[name] for name in names}
        if "key" in known_statistics:
            keys = jax.random.split(known_statistics.pop("key"), len(kernels))
            statistics_by_kernel = [{**known_statistics, "key": key} for key in keys]
        else:
            statistics_by_kernel = [known_statistics] * len(kernels)
        results: list[Solved] = []
        for kernel, kernel_contest, signals in zip(
            kernels, contests, statistics_by_kernel, strict=True
        ):
            pattern = kernel_contest.pattern
            window = kernel_contest.window
            keep = jnp.int32(kernel_contest.keep)
            mask, nan_count = _criterion_mask(criterion, pattern, window, kernel, keep, signals)
            if int(nan_count):
                raise ValueError(
                    f"{text(criterion)}: {int(nan_count)} weights have the score NaN, and NaN is no order; "
                    "look for NaN in the weights."
                )
            damp = jnp.zeros(len(kernel), kernel.dtype)
            results.append(Solved(jnp.where(mask, kernel, 0), mask, damp))
        if refit is None:
            return results
        refit_statistics = {name: statistics[name] for name in statistics_read_by(refit)}
        masks = [result.mask for result in results]
        return refit(kernels, contests, masks=masks, **refit_statistics)

    return Solver(solve, names + refit_names)


_FUNCTION = checks.Kind("a criterion", callable, lambda _: "such as jaxprune.criteria.wanda")


@functools.partial(jax.jit, static_argnames=("criterion", "pattern", "window"))
def _criterion_mask(
    criterion: Any, pattern: Any, window: int, kernel: jax.Array, keep: jax.Array, signals: Any
) -> tuple[jax.Array, jax.Array]:
    """Returns the mask of the weights with the highest scores, and the number of scores that are NaN."""
    matrices, axes = pattern_view(kernel, window)
    known_signals = {
        name: {"kernel": pattern_view(value, window)[0] if name == "input_moments" else value}
        for name, value in signals.items()
        if name != "key"
    }
    if "key" in signals:
        known_signals["key"] = signals["key"]
    [scores] = scores_of(criterion, {"kernel": matrices}, known_signals, [0], [axes])
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    mask = best_mask(pattern, window, scores.reshape(kernel.shape), keep)
    return mask, jnp.sum(jnp.isnan(scores), dtype=jnp.int32)


def best_mask(pattern: Any, window: int, scores: jax.Array, keep: Any) -> jax.Array:
    """Returns the mask of the units with the highest scores in each contest.

    Args:
      pattern: which weights are removed together and which compete.
      window: number of positions in the window of a convolution; 1 for any other product.
      scores: `[layers, inputs, outputs]`.
      keep: number of survivors in each contest.

    Returns:
      bool `[layers, inputs, outputs]`.
    """
    score_view, axes = pattern_view(scores, window)
    contest_axes, layers = pattern.contests(score_view.shape, axes)
    units = Units(pattern.to_groups(score_view, axes), contest_axes, layers=layers, kernel=axes)
    [kept_units] = updates.best_units([units], [Keep(keep)])
    return pattern.from_groups(kept_units, score_view.shape, axes).reshape(scores.shape)
