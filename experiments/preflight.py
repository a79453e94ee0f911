"""What is refused before anything is trained: methods that do not fit the model or the schedule."""

import traceback
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError
from experiments.task import input_shape, model_of
from experiments.units import axes_of

__all__ = ["check_schedule", "checked"]


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
    cfg: ConfigDict,
    where: str,
    file: str | None = None,
    gate: jp.gates.Gate | None = None,
) -> optax.GradientTransformation:
    """Returns `tx`, if one of its updates can be traced on the model of a config.

    Args:
      tx: the optimizer.
      cfg: the config; its data are not needed.
      where: which part of the config to blame.
      file: a user's file whose line to name, where the mistake is in it.
      gate: between the parameters that `tx` trains and the model's.

    Raises:
      UserError: what the library says of shapes, patterns, paths and missing signals.
    """

    def masks(key: jax.Array, x: jax.Array) -> Any:
        params = model_of(cfg).init(key, x)["params"]
        return jp.masks.make(params, cfg.prunable or None, axes=axes_of(cfg))

    def update(key: jax.Array, x: jax.Array) -> Any:
        params = model_of(cfg).init(key, x)["params"]
        if gate is not None:
            params = gate.init(params, key)
            read = lambda theta: jax.tree.leaves(
                (gate.sample(theta, key, 0), gate.penalty(theta, 0))
            )
            params = jax.grad(lambda theta: sum(leaf.sum() for leaf in read(theta)))(params)
        return tx.update(params, tx.init(params), params)

    x = jax.ShapeDtypeStruct((2, *input_shape(cfg)), "float32")
    for traced, blamed in ((masks, "config"), (update, where)):
        try:
            jax.eval_shape(traced, jax.random.key(0), x)
        except (TypeError, ValueError) as e:
            lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == file]
            at = f" (line {lines[-1]})" if lines else ""
            raise UserError(f"{blamed}{at}: {e}") from e
    return tx
