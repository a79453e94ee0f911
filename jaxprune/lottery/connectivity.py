"""Linear mode connectivity: the error along the straight line between two trained networks."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, trees
from jaxprune.trees import roles
from jaxprune.trees.alike import check_alike
from jaxprune.types import Params

__all__ = ["Line", "errors_along_line", "instability"]


class Line(NamedTuple):
    """The error along a straight line between two networks.

    Attributes:
      alphas: weights of the second network in the mixture, from 0 to 1.
      errors: the error at each of them.
    """

    alphas: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def instability(self) -> float:
        """The largest error on the line less the mean of those at its ends."""
        return instability(self.errors)


def errors_along_line(
    error: Callable[[Params], float | jax.Array],
    start: Params,
    end: Params,
    *,
    points: int = 30,
    recompute: Callable[[Params], Params] | None = None,
) -> Line:
    r"""Returns the error of $(1 - \alpha) W_1 + \alpha W_2$ at evenly spaced $\alpha$, both ends included.

    Args:
      error: parameters -> a number, such as the share of test examples that are classified wrongly.
      start: $W_1$, a tree of arrays: of a copy of a network that saw the examples in one order.
      end: $W_2$, of the same leaves and shapes: of the copy that saw them in another. Arrays that are no
        floating-point numbers must be the same in both.
      points: number of $\alpha$, 30 in the paper.
      recompute: parameters -> parameters; called at every point, ends included, before the error is computed.
        Running means and variances (BatchNorm) are not valid between two networks: `recompute` must measure
        them on training examples, and trees that hold such statistics are refused without it. Put both
        networks' statistics into the trees, not into `error`.

    Returns:
      The line; its `instability` is what papers report.

    Raises:
      ValueError: if the trees differ, hold running statistics that nobody recomputes, or an error is not
        finite.

    References:
      Frankle, Dziugaite, Roy & Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (2020).

    >>> def error(params):  # low at -1 and at 1, high between
    ...     return 1 - abs(params["w"])
    >>> line = errors_along_line(error, {"w": jnp.array(-1.0)}, {"w": jnp.array(1.0)}, points=3)
    >>> line.errors, line.instability
    ((0.0, 1.0, 0.0), 1.0)
    """
    who = "errors_along_line"
    checks.check(who, error=(error, checks.FUNCTION), points=(points, checks.INTEGER))
    checks.check(who, start=(start, checks.TREE), end=(end, checks.TREE))
    checks.check(who, recompute=(recompute, checks.optional(checks.FUNCTION)))
    if points < 2:
        raise ValueError(f"{who}(points={points}): at least 2, the ends of the line, are needed.")
    check_alike(who, "values at the end", start, end, "give two networks of one model")
    if recompute is None:
        _refuse_statistics(who, start)
    _refuse_other_constants(who, start, end)
    alphas = tuple(np.linspace(0.0, 1.0, points).tolist())
    errors = []
    for alpha in alphas:
        point = _between(start, end, alpha)
        value = float(error(point if recompute is None else recompute(point)))
        if not math.isfinite(value):
            raise ValueError(
                f"{who}: the error at alpha={alpha:.3g} is {value}; a finite one is needed, such as the "
                "share of wrong answers instead of a loss."
            )
        errors.append(value)
    return Line(alphas, tuple(errors))


def instability(errors: Sequence[float]) -> float:
    """Returns the largest error on a line less the mean of the errors at its ends.

    Two copies are linearly connected, and training is stable, if it is small: below 0.02 in the paper.

    Args:
      errors: along the line, the ends first and last.

    Returns:
      At least 0.

    Raises:
      ValueError: if there are fewer than two errors, or one is not finite.

    References:
      Frankle, Dziugaite, Roy & Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (2020).

    >>> round(instability([0.02, 0.5, 0.04]), 4)
    0.47
    """
    if len(errors) < 2:
        raise ValueError(
            f"instability: {len(errors)} errors; at least those at both ends are needed."
        )
    if not np.isfinite(np.asarray(errors, float)).all():
        raise ValueError(
            f"instability: of the errors {list(map(float, errors))} one is not finite; give errors that are, "
            "such as the share of wrong answers instead of a loss."
        )
    return float(max(errors) - (errors[0] + errors[-1]) / 2)


def _between(start: Params, end: Params, alpha: float) -> Params:
    def interpolate(first: Any, last: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(first), jnp.inexact):
            return first
        return jnp.asarray((1 - alpha) * first + alpha * last, jnp.result_type(first))

    leaves, treedef = jax.tree.flatten(start)
    return treedef.unflatten(map(interpolate, leaves, trees.beside(start, end)))


def _refuse_statistics(who: str, params: Params) -> None:
    paths = trees.paths(params)
    siblings = roles.siblings(paths)
    rows = zip(paths, jax.tree.leaves(params), siblings, strict=True)
    statistics = [
        path
        for path, leaf, names in rows
        if roles.by_name(path, jnp.shape(leaf), names) == "statistic"
    ]
    if statistics:
        raise ValueError(
            f"{who}: {trees.quote_names(statistics)} are statistics of activations, which mean nothing "
            "between two networks; give recompute=, which measures them on training examples."
        )


def _refuse_other_constants(who: str, start: Params, end: Params) -> None:
    rows = zip(trees.paths(start), jax.tree.leaves(start), trees.beside(start, end), strict=True)
    different = [
        path
        for path, first, last in rows
        if not jnp.issubdtype(jnp.result_type(first), jnp.inexact)
        and not jnp.array_equal(first, last)
    ]
    if different:
        raise ValueError(
            f"{who}: {trees.quote_names(different)} are whole numbers and differ, with nothing between them; "
            "leave them out of both trees."
        )
