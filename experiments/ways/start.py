"""Trainings that begin with masks: what they are told, and what they begin with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.training.task import Task

__all__ = ["Setting", "Start", "StartState"]


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


class StartState(NamedTuple):
    """What training begins with."""

    params: Any
    rest: Any
    masks: Any


Start = Callable[[Setting], StartState]
