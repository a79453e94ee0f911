"""Controls: trainings on the masks that another contestant has found."""

from typing import Literal

import jax

import jaxprune as jp
from experiments.training.setup import Setup, model_axes
from experiments.training.task import fresh_variables
from experiments.ways import earlier_trainings
from experiments.ways.recipe import Recipe, on_fixed_masks, refuse_average
from experiments.ways.start import Setting, Start, StartState

__all__ = ["control", "recipe"]

_WITHIN: dict[str, Literal["layer", "rows"]] = {"shuffled": "layer", "row-shuffled": "rows"}


def recipe(setup: Setup, of: str, name: str) -> Recipe:
    """Returns the recipe of a control.

    Args:
      setup: of the config.
      of: label of the contestant whose masks are taken.
      name: of the control, see `control`.
    """
    refuse_average(setup)
    return Recipe(on_fixed_masks(setup.optimizer), start=control(of, name), recorded=True, stage=2)


def control(of: str, name: str) -> Start:
    """Trains with what is left of the masks that another contestant has found.

    Args:
      of: the other contestant, at the same point and with the same seed.
      name: "retrained": its masks, on the initial weights; "shuffled": the same number of weights in each
        layer, in other places; "row-shuffled": the same number at each input of each layer, to other outputs;
        "reinit": its masks, on other initial weights.

    References:
      Frankle, Dziugaite, Roy & Carbin, "Pruning Neural Networks at Initialization: Why Are We Missing the
      Mark?" (2021); "retrained" is the winning ticket of Frankle & Carbin (2019).
    """

    def start(setting: Setting) -> StartState:
        params = setting.params
        masks = earlier_trainings.masks(setting, earlier_trainings.same_point_folder(setting, of))
        if name in _WITHIN:
            axes = model_axes(setting.model, setting.task.inputs.shape[1:])
            key = jax.random.fold_in(setting.key, 1)
            masks = jp.masks.shuffle(masks, key, axes, within=_WITHIN[name])
        if name == "reinit":
            key = jax.random.fold_in(setting.key, 2)
            params, _ = fresh_variables(setting.model, setting.task, key)
        return StartState(params, setting.rest, masks)

    return start
