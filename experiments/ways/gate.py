"""Gates that are trained beside the weights and decide which of them there are."""

from typing import Any

import optax

import jaxprune as jp
from experiments.config import UserError, build
from experiments.training.setup import Setup
from experiments.ways.recipe import Recipe, averaged, refuse_early_stop

__all__ = ["recipe"]


def recipe(setup: Setup, spec: Any, where: str, **supplied: Any) -> Recipe:
    """Returns the recipe of a gate.

    Args:
      setup: of the config.
      spec: the part.
      where: in the config, to blame.
      **supplied: arguments that the part leaves out: a sparsity or a strength.

    Raises:
      UserError: it is stopped early, says twice what is prunable, or its schedule ends after training.
    """
    refuse_early_stop(setup, where)
    if setup.prunable and "prunable" in spec:
        raise UserError(f"{where}.prunable and config.prunable: leave one of them out.")
    offered = {"axes": setup.axes}
    if setup.prunable:
        offered = {"prunable": setup.prunable, **offered}
    gate = build("gate", spec, offered=offered, **supplied)
    projected = averaged(setup, optax.chain(_with_gates(setup), gate.project()))
    if spec.get("end", 0) > setup.cfg.steps:
        raise UserError(
            f"{where}: its schedule ends at step {spec['end']}, but training ends after "
            f"config.steps={setup.cfg.steps}."
        )
    learned = "sparsity" not in (*spec, *supplied)
    described = "how sparse it becomes is learned" if learned else "as sparse as it says"
    return Recipe(
        lambda key: projected,
        gate=gate,
        settled=None,
        learned=learned,
        described=f"gate: {described}",
    )


def _with_gates(setup: Setup) -> Any:
    """The optimizer of weights and gates, or one for each."""
    if setup.cfg.gate_optimizer is None:
        return setup.optimizer
    optimizers = {
        "weights": setup.optimizer,
        "gates": build("optimizer", setup.cfg.gate_optimizer),
    }
    return optax.partition(optimizers, jp.gates.Gated("weights", "gates"))  # type: ignore[arg-type]
