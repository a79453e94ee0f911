"""What is refused before anything is trained: methods that do not fit the model or the schedule."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from flax.errors import FlaxError
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError, user_files
from experiments.training import task as task_lib
from experiments.training.setup import Setup
from jaxprune.data import catalogue, prepared
from jaxprune.pruning.starting import full_masks

__all__ = ["check_cut", "check_data", "check_schedule", "checked"]


def check_data(cfg: ConfigDict) -> None:
    """Raises `UserError` if the data set has not been fetched."""
    name = cfg.data.name
    if name.startswith(catalogue.PREFIX):
        return
    try:
        folder = prepared.folder_of(name)
    except FileNotFoundError as error:  # below a home folder that is not there
        raise UserError(str(error)) from error
    if not prepared.is_prepared(folder):
        task_lib.dataset(cfg)


def check_schedule(method: jp.Method | None, steps: int, where: str) -> None:
    """Raises `UserError` if the masks would still change when training ends."""
    last = None if method is None else method.end - method.straight_through
    if last is not None and last >= steps:
        raise UserError(
            f"{where}: masks change until step {last}, but training ends after "
            f"config.steps={steps}; the target would not be reached."
        )


def checked(
    tx: optax.GradientTransformation,
    setup: Setup,
    where: str,
    file: str | None = None,
    gate: jp.gates.Gate | None = None,
) -> optax.GradientTransformation:
    """Returns `tx`, if one of its updates can be traced on the model of a config.

    Args:
      tx: the optimizer.
      setup: of the config; its data are not needed.
      where: which part of the config to blame.
      file: `path/to/file.py:function` of a criterion of the user's.
      gate: between the parameters that `tx` trains and the model's.

    Raises:
      UserError: what the library says of shapes, patterns, paths and missing signals.
    """

    def update(key: jax.Array, x: jax.Array) -> Any:
        params = setup.model.init(key, x)["params"]
        if gate is not None:
            gated_sum = functools.partial(_gated_sum, gate, key)
            params = jax.grad(gated_sum)(gate.init(params, key))
        return tx.update(params, tx.init(params), params)

    arguments = _arguments(setup)
    _traced(_masks(setup), arguments, "config")
    _traced(update, arguments, where, file)
    return tx


def _gated_sum(gate: jp.gates.Gate, key: jax.Array, theta: Any) -> Any:
    leaves = jax.tree.leaves((gate.sample(theta, key, 0), gate.penalty(theta, 0)))
    return sum(leaf.sum() for leaf in leaves)


def check_cut(
    method: jp.Method,
    setup: Setup,
    where: str,
    signals: Mapping[str, Any] | None = None,
    file: str | None = None,
) -> None:
    """Raises `UserError` unless a method can prune the model of a config at once.

    Args:
      method: prunes.
      setup: of the config; its data are not needed.
      where: which part of the config to blame.
      signals: shapes of those that the method's criterion reads, by keyword; `None`: they are not known, and
        magnitude is asked in its place.
      file: `path/to/file.py:function` of a criterion of the user's.
    """
    if signals is None:
        method = dataclasses.replace(method, criterion=jp.criteria.magnitude)

    def cut(key: jax.Array, x: jax.Array, signals: Mapping[str, Any]) -> Any:
        params = setup.model.init(key, x)["params"]
        masks = full_masks(method, params, setup.prunable, setup.axes)
        return jp.next_masks(method, params, masks, method.end, axes=setup.axes, **signals)

    arguments = _arguments(setup)
    _traced(_masks(setup), arguments, "config")
    _traced(cut, (*arguments, signals or {}), where, file)


def _masks(setup: Setup) -> Callable[[jax.Array, jax.Array], Any]:
    def masks(key: jax.Array, x: jax.Array) -> Any:
        params = setup.model.init(key, x)["params"]
        return jp.masks.make(params, setup.prunable, axes=setup.axes)

    return masks


def _arguments(setup: Setup) -> tuple[Any, ...]:
    """A key, and the shape of a batch."""
    return jax.random.key(0), setup.example(2)


def _traced(
    function: Callable[..., Any], arguments: Sequence[Any], blamed: str, file: str | None = None
) -> None:
    """Traces a function, and blames the config, or a file of the user's, for what is raised."""
    try:
        with user_files.told(file, blamed) if file else contextlib.nullcontext():
            jax.eval_shape(function, *arguments)
    except (TypeError, ValueError, ZeroDivisionError, FlaxError) as e:
        raise UserError(f"{blamed}: {e}") from e
