"""Builds the rows of `config.posttrain`, and checks them before statistics are computed."""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments.config import UserError, build, user_files
from experiments.config.sections import check_single_matches
from jaxprune import checks, posttrain
from jaxprune.posttrain import rates as rates_lib
from jaxprune.posttrain.contests import Contest, contest
from jaxprune.posttrain.solvers.solver import KNOWN, statistics_read_by
from jaxprune.posttrain.views import Layout

__all__ = ["built_row", "check_rows"]

# Solvers are tried on small kernels: at most this many channels and outputs, in ascending order.
_SMALL = (16, 64, 256)


def built_row(label: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that a row gives to `posttrain.prune`, by name, with its parts built.

    Args:
      label: label of the row, for error messages.
      row: the row as the config has it.
    """
    solver = row["solver"]
    if isinstance(solver, str):
        where = f"config.posttrain.rows[{label!r}].solver"
        criterion = user_files.load(solver, where, KNOWN)
        built = posttrain.solvers.by_criterion(criterion)
    else:
        built = build("solver", solver)
    rates = row.get("rates", 0.5)
    is_part = isinstance(rates, Mapping) and "name" in rates
    return {
        "solver": built,
        "pattern": build("pattern", row.get("pattern")),
        "rates": build("rates", rates) if is_part else rates,
        "recover": build("recover", row.get("recover")),
        "propagate": float(row.get("propagate", 0.0)),
    }


def check_rows(
    plan: posttrain.Plan, rows: Mapping[str, Mapping[str, Any]], written: Mapping[str, Any]
) -> None:
    """Raises `UserError` unless all rows fit the kernels of a model; computes no statistics.

    Args:
      plan: plan of the model.
      rows: label -> row with its parts built, as from `built_row`.
      written: label -> row as the config has it.
    """
    names = [kernel.name for kernel in plan.kernels]
    for label, row in rows.items():
        where = f"config.posttrain.rows[{label!r}]"
        if isinstance(row["rates"], Mapping):
            check_single_matches(row["rates"], names, f"{where}.rates")
        solver = written[label]["solver"]
        is_users = isinstance(solver, str)
        try:
            contests = _contests(plan, row)
            with user_files.told(solver, where) if is_users else contextlib.nullcontext():
                for (size, *_), kernel_contest in contests.items():
                    _try_solver(row["solver"], size, kernel_contest)
        except (TypeError, ValueError) as e:
            raise UserError(f"{where}: {e}") from e


def _contests(plan: posttrain.Plan, row: Mapping[str, Any]) -> dict[Any, Contest]:
    """Returns one contest for each kind of kernel; rates that are computed from data count as 0."""
    rates = row["rates"]
    if callable(rates) and not checks.takes(rates, 1):
        rates = 0.0
    pattern = row["pattern"] or jp.patterns.unstructured()
    sparsities = rates_lib.of_plan(rates, plan, None, None)
    contests = {}
    for kernel, sparsity in zip(plan.kernels, sparsities, strict=True):
        layout = kernel.view.layout
        found = contest(pattern, layout, sparsity, kernel.name)
        contests.setdefault((layout.size, found.window, found.among, found.members), found)
    return contests


def _try_solver(solver: Any, size: tuple[int, int, int], kernel_contest: Contest) -> None:
    """Traces a solver with shapes alone; a solver that needs values prunes a small kernel instead."""
    layers, inputs, _ = size
    shapes = {"input_moments": (layers, inputs, 1), "grams": (layers, inputs, inputs)}
    names = statistics_read_by(solver)
    statistics: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(shapes[name], jnp.float32) for name in names if name != "key"
    }
    if "key" in names:
        statistics["key"] = jax.random.key(0)

    def solve(kernel: jax.Array, statistics: Mapping[str, Any]) -> Any:
        return solver([kernel], [kernel_contest], **statistics)

    try:
        jax.eval_shape(solve, jax.ShapeDtypeStruct(size, jnp.float32), statistics)
    except jax.errors.ConcretizationTypeError:
        _try_on_small_kernel(solver, size, kernel_contest, names)


def _try_on_small_kernel(
    solver: Any, size: tuple[int, int, int], kernel_contest: Contest, names: tuple[str, ...]
) -> None:
    """Calls a solver on the smallest kernel of random weights that fits the pattern."""
    window = kernel_contest.window
    channels, outputs = size[1] // window, size[2]
    for most in (*_SMALL, max(channels, outputs)):
        shape = (window, min(channels, most), min(outputs, most))
        layout = Layout(shape, (), (0, 1), (2,), window)
        with contextlib.suppress(ValueError):
            small_contest = contest(kernel_contest.pattern, layout, 0.5, "kernel")
            break
    else:
        return
    kernel = jax.random.normal(jax.random.key(0), layout.size)
    inputs = layout.size[1]
    rows = jax.random.normal(jax.random.key(1), (2 * inputs, inputs))
    grams = (rows.T @ rows / len(rows))[None]
    moments = jnp.diagonal(grams, axis1=1, axis2=2)[..., None]
    known = {"input_moments": moments, "grams": grams, "key": jax.random.key(2)}
    solver([kernel], [small_contest], **{name: known[name] for name in names})
