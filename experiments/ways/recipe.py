"""What a way to become sparse comes to: an optimizer, and what is told of the network that it trains.

A way is a file beside this one, whose function `recipe` returns a `Recipe`; a line of
`experiments.config.fields.WAYS` lets configs name it.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

import jaxprune as jp
from experiments.config import UserError, build
from experiments.config.fields import DENSE
from experiments.training.setup import Setup
from experiments.training.trainer import Trainer, TrainState
from experiments.ways.start import Start

__all__ = [
    "Recipe",
    "Transform",
    "averaged",
    "masks_in_force",
    "on_fixed_masks",
    "recipe_of",
    "refuse_average",
    "refuse_early_stop",
]

Transform = Callable[[Any], optax.GradientTransformation]
MasksOf = Callable[[Trainer, TrainState, Any, int], Any]


def masks_in_force(trainer: Trainer, state: TrainState, network: Any, steps: int) -> Any:
    """Returns the masks of a trained network: the gates', or those in the optimizer's state."""
    return trainer.masks(state, steps)


def _nothing_more(network: Any, opt_state: Any) -> dict[str, Any]:
    return {}


def _not_known() -> None:
    return None


class Recipe(NamedTuple):
    """What trains.

    Attributes:
      transform: the optimizer with all that is around it, for a PRNG key; for masks, where `start` finds
        them.
      masks_of: (trainer, state, network to evaluate, updates) -> its masks; `None`: it is dense.
      method: where masks follow one.
      gate: where the optimizer trains gates beside the weights.
      settled: the first step from which on the network is as sparse as it will be; `None`: at the end.
      learned: whether nobody asked for a sparsity.
      recorded: whether the optimizer's state holds a record of masks.
      start: where masks are fixed before training begins.
      cuts: the method by which `start` prunes at once.
      signals: returns the shapes of the signals that its criterion reads, by keyword, where they are known.
      after: updates after another training; `None`: it is trained from the start.
      continues: in a comparison, label of the contestant whose training that was.
      stage: in a comparison it is trained after those of lower stages, whose networks or masks it needs.
      described: in a plan, where no method says how many weights are left.
      measure: (network to evaluate, optimizer's state) -> more results of a trained network, by name.
    """

    transform: Transform
    masks_of: MasksOf = masks_in_force
    method: jp.Method | None = None
    gate: jp.gates.Gate | None = None
    settled: int | None = 0
    learned: bool = False
    recorded: bool = False
    start: Start | None = None
    cuts: jp.Method | None = None
    signals: Callable[[], Mapping[str, Any] | None] = _not_known
    after: int | None = None
    continues: str = DENSE
    stage: int = 0
    described: str = ""
    measure: Callable[[Any, Any], dict[str, Any]] = _nothing_more

    def steps(self, training_steps: int) -> int:
        """Returns the number of updates that it makes where dense training makes `training_steps`."""
        return training_steps if self.after is None else self.after

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """What updates; each training's own key, or masks, are in its state."""
        return self.transform(jax.random.key(0) if self.start is None else None)

    @property
    def masked(self) -> bool:
        """Whether the parameters are zero off the masks from the start."""
        passes_through = self.method is not None and self.method.straight_through
        return self.start is not None or (self.method is not None and not passes_through)


def recipe_of(setup: Setup, way: str, spec: Any, where: str, **supplied: Any) -> Recipe:
    """Builds what trains.

    Args:
      setup: of the config.
      way: a field of the config that says how a model becomes sparse, or "dense".
      spec: the part in that field; a method may be given as it is.
      where: in the config, to blame.
      **supplied: arguments that the part leaves out: a sparsity, a strength.

    Raises:
      UserError: if what trains would not be what is evaluated.
    """
    return importlib.import_module(f"experiments.ways.{way}").recipe(setup, spec, where, **supplied)


def averaged(setup: Setup, optimizer: Any) -> optax.GradientTransformation:
    """Returns the optimizer with an average of what it trains, where `config.ema` asks for one."""
    return jp.averaged(optimizer, setup.cfg.ema) if setup.cfg.ema else optimizer


def refuse_average(setup: Setup) -> None:
    """Raises `UserError` if the config asks for an average, which would not be sparse."""
    if setup.cfg.ema:
        raise UserError(
            f"config.ema={setup.cfg.ema}: an average over updates is not sparse; it goes with gates, where "
            "what is averaged decides what is sparse. Set it to 0."
        )


def refuse_early_stop(setup: Setup, where: str) -> None:
    """Raises `UserError` if the config stops early what becomes sparser to the end."""
    if setup.cfg.early_stop:
        raise UserError(
            f"config.early_stop: {where} makes the network sparser to the end, so that no evaluation before "
            "counts; set it to 0."
        )


def on_fixed_masks(optimizer: optax.GradientTransformation, removal: Any = None) -> Transform:
    """Returns an optimizer for masks: it trains on them, or with a `removal` towards them first."""
    if removal is None:
        return lambda masks: jp.recorded(jp.fixed(optimizer, masks))
    return lambda masks: jp.recorded(build("removal", removal, inner=optimizer, masks=masks))
