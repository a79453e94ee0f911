"""Masks that are fixed before training begins, and the weights that they are put on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

import jaxprune as jp
from experiments.runs import mask_files
from experiments.training.divergence import DivergedError
from experiments.training.task import Task, fresh_variables
from experiments.ways.coupled_units import model_axes

__all__ = ["Began", "Setting", "Start", "control"]


class Setting(NamedTuple):
    """What is known as a training begins.

    Attributes:
      model: a linen module.
      task: data.
      params: its initial parameters.
      rest: its other variables.
      key: PRNG key, the same for all contestants of a seed.
      folder: of this training: `<run>/<contestant>/<point>/seed_<n>`.
    """

    model: Any
    task: Task
    params: Any
    rest: Any
    key: jax.Array
    folder: Path

    @property
    def run(self) -> Path:
        """The folder of the whole comparison."""
        return self.folder.parents[2]


class Began(NamedTuple):
    """What training begins with."""

    params: Any
    rest: Any
    masks: Any


Start = Callable[[Setting], Began]


def control(of: str, name: str) -> Start:
    """Trains with what is left of the masks that another contestant has found.

    Args:
      of: the other contestant, at the same point and with the same seed.
      name: "retrained": its masks, on the initial weights; "shuffled": the same number of weights in each
        leaf, in other places; "reinit": its masks, on other initial weights.

    References:
      Frankle, Dziugaite, Roy & Carbin, "Pruning Neural Networks at Initialization: Why Are We Missing the
      Mark?" (2021); "retrained" is the winning ticket of Frankle & Carbin (2019).
    """

    def start(setting: Setting) -> Began:
        run, point, seed = (
            setting.folder.parents[2],
            setting.folder.parent.name,
            setting.folder.name,
        )
        found = run / of / point / seed
        if (found / "failed.json").exists():
            raise DivergedError(f"{of}, {name}: there are no masks, as {of} diverged.")
        params, masks = setting.params, mask_files.load(found / "masks.npz", setting.params)
        if name == "shuffled":
            axes = model_axes(setting.model, setting.task.inputs.shape[1:])
            masks = jp.masks.shuffle(masks, jax.random.fold_in(setting.key, 1), axes)
        if name == "reinit":
            key = jax.random.fold_in(setting.key, 2)
            params, _ = fresh_variables(setting.model, setting.task, key)
        return Began(params, setting.rest, masks)

    return start
