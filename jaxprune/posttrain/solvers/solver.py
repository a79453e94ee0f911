"""What a solver is, and how any criterion becomes one."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks, updates
from jaxprune.calls import Part, text
from jaxprune.fit import scores_of
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved, seen_by_patterns
from jaxprune.types import Criterion, Keep, Units

__all__ = ["KNOWN", "Solver", "best_mask", "by_criterion", "reads"]

KNOWN = ("input_moments", "grams", "key")  # what can be asked for


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solver(Part):
    """Masks and weights of kernels that share an input; it is called like the function that it holds.

    Attributes:
      solve: `(kernels, contests, *, <statistics>, **_) -> list of Solved`. Kernels are `[layers, inputs,
        outputs]`, in float32 or wider; `input_moments` are mean squares `[layers, inputs, 1]`, `grams` mean
        products `[layers, inputs, inputs]`, `key` is a PRNG key.
      names: of the statistics that it reads; `None`: its signature tells.
    """

    solve: Callable[..., list[Solved]]
    names: tuple[str, ...] | None = None

    def __call__(
        self, kernels: Sequence[jax.Array], contests: Sequence[Contest], **statistics: Any
    ) -> list[Solved]:
        """Returns what becomes of each kernel."""
        return self.solve(kernels, contests, **statistics)


def reads(solver: Callable[..., Any]) -> tuple[str, ...]:
    """The statistics that a solver reads, by its signature; a function of one's own will do.

    >>> reads(lambda kernels, contests, *, grams, **_: [])
    ('grams',)
    """
    if isinstance(solver, Solver):
        if solver.names is not None:
            return solver.names
        solver = solver.solve
    given = list(inspect.signature(solver).parameters.values())[2:]
    wanted = [p.name for p in given if p.kind is not p.VAR_KEYWORD]
    unknown = [p.name for p in given if p.name in wanted and p.default is p.empty]
    unknown = [name for name in unknown if name not in KNOWN]
    if unknown:
        raise TypeError(
            f"{text(solver)}: the statistic {unknown[0]!r} is not known; a solver may read "
            f"{', '.join(KNOWN)}."
        )
    return tuple(name for name in KNOWN if name in wanted)


@factory
def by_criterion(criterion: Criterion, *, refit: Any = None) -> Solver:
    """Returns the solver that keeps the best weights by any criterion, one's own too.

    Args:
      criterion: it may read `input_moments`, `grams`, `key` and `axes`.
      refit: solver of the weights under given masks, such as `least_squares()`; `None`: what is kept stays.

    >>> from jaxprune import criteria
    >>> by_criterion(criteria.wanda)
    by_criterion(wanda)
    """
    wanted = [
        p.name
        for p in list(inspect.signature(criterion).parameters.values())[1:]
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    ]
    missing = [name for name in wanted if name not in KNOWN]
    if missing:
        raise ValueError(
            f"by_criterion({text(criterion)}): it reads {missing[0]!r}, which is not gathered segment by "
            "segment; prune with jaxprune.prune_on, where the network fits at once."
        )
    names = tuple(name for name in KNOWN if name in wanted)
    more = () if refit is None else tuple(n for n in reads(refit) if n not in names)

    def solve(
        kernels: Sequence[jax.Array], contests: Sequence[Contest], **statistics: Any
    ) -> list[Solved]:
        known = {name: statistics[name] for name in names}
        if "key" in known:
            keys = jax.random.split(known.pop("key"), len(kernels))
            given = [{**known, "key": key} for key in keys]
        else:
            given = [known] * len(kernels)
        found: list[Solved] = []
        for kernel, each, signals in zip(kernels, contests, given, strict=True):
            pattern = (each.pattern, each.window)
            mask, unknown = _best(criterion, *pattern, kernel, jnp.int32(each.keep), signals)
            if int(unknown):
                raise ValueError(
                    f"{text(criterion)}: {int(unknown)} weights have the score NaN, and NaN is no order; "
                    "look for NaN in the weights."
                )
            damp = jnp.zeros(len(kernel), kernel.dtype)
            found.append(Solved(jnp.where(mask, kernel, 0), mask, damp))
        if refit is None:
            return found
        own = {name: statistics[name] for name in reads(refit)}
        return refit(kernels, contests, masks=[each.mask for each in found], **own)

    checks.check("by_criterion", criterion=(criterion, _FUNCTION))
    return Solver(solve, names + more)


_FUNCTION = checks.Kind("a criterion", callable, lambda _: "such as jaxprune.criteria.wanda")


@functools.partial(jax.jit, static_argnames=("criterion", "pattern", "window"))
def _best(
    criterion: Any, pattern: Any, window: int, kernel: jax.Array, keep: jax.Array, signals: Any
) -> tuple[jax.Array, jax.Array]:
    """The mask of the best weights, and how many scores are NaN."""
    seen, axes = seen_by_patterns(kernel, window)
    known = {
        name: {"kernel": seen_by_patterns(value, window)[0] if name == "input_moments" else value}
        for name, value in signals.items()
        if name != "key"
    }
    if "key" in signals:
        known["key"] = signals["key"]
    [scores] = scores_of(criterion, {"kernel": seen}, known, [0], [axes])
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    mask = best_mask(pattern, window, scores.reshape(kernel.shape), keep)
    return mask, jnp.sum(jnp.isnan(scores), dtype=jnp.int32)


def best_mask(pattern: Any, window: int, scores: jax.Array, keep: Any) -> jax.Array:
    """The mask of the best units of each contest, by scores `[layers, inputs, outputs]`."""
    seen, axes = seen_by_patterns(scores, window)
    along, layers = pattern.contests(seen.shape, axes)
    units = Units(pattern.to_groups(seen, axes), along, layers=layers, kernel=axes)
    [alive] = updates.best_units([units], [Keep(keep)])
    return pattern.from_groups(alive, seen.shape, axes).reshape(scores.shape)
