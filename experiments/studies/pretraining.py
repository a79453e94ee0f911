"""The weights with which a comparison begins if its networks are first trained on other data."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments.config import UserError
from experiments.config.pretraining import FIELDS, PRETRAINING, pretraining_config
from experiments.training.divergence import DivergedError
from experiments.training.failures import failure
from experiments.training.loop import last_state
from experiments.training.setup import Setup
from experiments.training.setup import setup as setup_of
from experiments.training.trainer import TrainState

__all__ = ["Pretraining"]


class Pretraining:
    """Dense training on other data, once for each seed.

    Attributes:
      setup: setup of the training on the other data.
    """

    def __init__(self, setup: Setup):
        """Checks that the pretrained weights fit the networks of the comparison.

        Args:
          setup: setup of the comparison; its config has a `pretraining`.

        Raises:
          UserError: the images or a leaf that is not redrawn have another shape on the other data, or
            `redrawn` matches no leaf.
        """
        self.setup = setup_of(pretraining_config(setup.cfg))
        self._redrawn = {**FIELDS, **setup.cfg.pretraining}["redrawn"]
        where = f"config.{PRETRAINING}"
        if self.setup.input_shape != setup.input_shape:
            raise UserError(
                f"{where}.data: images of shape {self.setup.input_shape}, where those of config.data are "
                f"{setup.input_shape}; choose data of the same shape."
            )
        params, pretrained = _param_shapes(setup), _param_shapes(self.setup)
        names = jp.masks.paths(params)
        if self._redrawn and not any(map(self._begins_anew, names)):
            raise UserError(
                f"{where}.redrawn={self._redrawn!r} matches no leaf of the model: {', '.join(names)}."
            )
        for name, leaf, other in zip(
            names, jax.tree.leaves(params), jax.tree.leaves(pretrained), strict=True
        ):
            if leaf.shape != other.shape and not self._begins_anew(name):
                raise UserError(
                    f"{where}: {name} is {other.shape} there and {leaf.shape} here; name it in redrawn=."
                )

    def initial(self, run: Path, seed: int, params: Any) -> tuple[Any, Any]:
        """Returns the parameters and other variables with which the trainings of a seed begin.

        Args:
          run: the folder of the comparison.
          seed: seed of the training.
          params: tree of freshly drawn parameters; leaves that `redrawn` matches are taken from it.

        Raises:
          DivergedError: the training on the other data diverged, so it has no result.
        """
        folder = run / PRETRAINING / f"seed_{seed}"
        if failure(folder) is not None:
            raise DivergedError(
                f"seed {seed}: there is nothing to begin with, as pretraining diverged."
            )
        variables = self.setup.model.init(jax.random.key(0), jnp.zeros(self.setup.example().shape))
        like_params = variables["params"]
        like_rest = {name: tree for name, tree in variables.items() if name != "params"}
        opt_state = self.setup.optimizer.init(like_params)
        pretrained = last_state(folder, TrainState(like_params, like_rest, opt_state))
        leaves = [
            drawn if self._begins_anew(name) else leaf
            for name, drawn, leaf in zip(
                jp.masks.paths(params),
                jax.tree.leaves(params),
                jax.tree.leaves(pretrained.params),
                strict=True,
            )
        ]
        return jax.tree.unflatten(jax.tree.structure(params), leaves), pretrained.rest

    def _begins_anew(self, name: str) -> bool:
        return bool(self._redrawn) and re.search(self._redrawn, name) is not None


def _param_shapes(setup: Setup) -> Any:
    return jax.eval_shape(setup.model.init, jax.random.key(0), setup.example())["params"]
