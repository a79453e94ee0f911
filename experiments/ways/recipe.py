"""How a network becomes sparse: by a method, by gates, or by a penalty."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError, build
from experiments.config.fields import DENSE
from experiments.ways.coupled_units import axes_of, with_units
from experiments.ways.fixed_masks import Start, control
from experiments.ways.oneshot import pruned

__all__ = ["Recipe", "Transform", "recipe"]

Transform = Callable[[Any], optax.GradientTransformation]


class Recipe(NamedTuple):
    """What trains.

    Attributes:
      kind: "method", "gate", "penalty" (proximal steps), "subgradient", "control" of a contestant's
        masks, "pruned" at once, or "dense".
      transform: the optimizer with all that is around it, for a PRNG key; for masks, where `start` finds
        them.
      method: where masks follow one.
      start: where masks are fixed before training begins.
      cuts: the method by which `start` prunes at once.
      after: updates after dense training; `None`: it is trained from the start.
      gate: where the optimizer trains gates beside the weights.
      settled: the first step from which on the network is as sparse as it will be; `None`: at the end.
      learned: whether nobody asked for a sparsity.
    """

    kind: str
    transform: Transform
    method: jp.Method | None = None
    gate: jp.gates.Gate | None = None
    settled: int | None = 0
    learned: bool = False
    start: Start | None = None
    after: int | None = None
    cuts: jp.Method | None = None

    def steps(self, cfg: ConfigDict) -> int:
        """The number of updates that it makes."""
        return cfg.steps if self.after is None else self.after

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """What updates; each training's own key, or masks, are in its state."""
        return self.transform(jax.random.key(0) if self.start is None else None)

    @property
    def recorded(self) -> bool:
        """Whether the optimizer's state holds a record of masks."""
        return self.kind in ("method", "penalty", "control", "pruned")

    @property
    def masked(self) -> bool:
        """Whether the parameters are zero off the masks from the start."""
        through = self.method is not None and self.method.straight_through
        return self.start is not None or (self.method is not None and not through)


def recipe(cfg: ConfigDict, kind: str, spec: Any, where: str, **supplied: Any) -> Recipe:
    """Builds what trains.

    Args:
      cfg: the config, for its optimizer.
      kind: see `Recipe`.
      spec: the part of that kind; a method may be given as it is.
      where: in the config, to blame.
      **supplied: arguments that the part leaves out: a sparsity, a strength.

    Raises:
      UserError: if what trains would not be what is evaluated.
    """
    optimizer, prunable = build("optimizer", cfg.optimizer), cfg.prunable or None
    average = lambda tx: jp.averaged(tx, cfg.ema) if cfg.ema else tx
    if cfg.early_stop and kind in ("gate", "penalty"):
        raise UserError(
            f"config.early_stop: {where} makes the network sparser to the end, so that no evaluation before "
            "counts; set it to 0."
        )
    if cfg.ema and kind not in (DENSE, "gate"):
        raise UserError(
            f"config.ema={cfg.ema}: an average over updates is not sparse; it goes with gates, where what is "
            "averaged decides what is sparse. Set it to 0."
        )
    if kind == DENSE:
        return Recipe(kind, lambda key: average(optimizer))
    if kind == "method":
        method = spec if isinstance(spec, jp.Method) else build("method", spec, **supplied)
        method = with_units(cfg, method, where)
        axes = axes_of(cfg)
        enforce = jp.straight_through if method.straight_through else jp.sparsify
        sparse = lambda key: enforce(optimizer, method, key=key, prunable=prunable, axes=axes)
        transform = lambda key: jp.recorded(sparse(key))
        return Recipe(kind, transform, method, settled=method.end + 1)
    if kind == "control":
        return Recipe(kind, _fixed(optimizer), start=control(spec["of"], spec["control"]))
    if kind == "pruned":
        pipeline, method, (folder, before) = spec
        method = with_units(cfg, method, where)
        start = pruned(cfg, pipeline, method, folder, before.optimizer, where)
        after = pipeline.finetune if pipeline.when == "trained" else None
        until = pipeline.removal["until"] + 1 if pipeline.removal else 0
        own = build("optimizer", pipeline.optimizer) or optimizer
        transform = _fixed(own, pipeline.removal)
        transform(None)  # mistakes are told now, not after dense training
        return Recipe(kind, transform, start=start, after=after, settled=until, cuts=method)
    if kind == "gate":
        if prunable and "prunable" in spec:
            raise UserError(f"{where}.prunable and config.prunable: leave one of them out.")
        known = {"prunable": prunable, "axes": axes_of(cfg)} if prunable else {"axes": axes_of(cfg)}
        gate = build("gate", spec, offered=known, **supplied)
        both = _with_gates(optimizer, cfg)
        projected = average(optax.chain(both, gate.project()))
        if spec.get("end", 0) > cfg.steps:
            raise UserError(
                f"{where}: its schedule ends at step {spec['end']}, but training ends after "
                f"config.steps={cfg.steps}."
            )
        learned = "sparsity" not in (*spec, *supplied)
        return Recipe(kind, lambda key: projected, gate=gate, settled=None, learned=learned)
    axes = axes_of(cfg)
    penalty = build("penalty", spec, offered={"axes": axes}, **supplied)
    if kind == "subgradient":
        try:
            slope = jp.add_penalty(penalty, prunable=prunable, axes=axes)
        except ValueError as e:
            raise UserError(f"{where}: {e}") from e
        tx = optax.chain(slope, optimizer)
        return Recipe(kind, lambda key: tx)
    tx = jp.proximal(
        optimizer,
        penalty,
        _step_size(cfg, where),
        preconditioner=build("preconditioner", cfg.preconditioner),
        prunable=prunable,
        axes=axes,
    )
    tx = jp.recorded(tx)
    return Recipe(kind, lambda key: tx, settled=None, learned=True)


def _fixed(optimizer: optax.GradientTransformation, removal: Any = None) -> Transform:
    """Trains on masks, or towards them first."""
    if removal is None:
        return lambda masks: jp.recorded(jp.fixed(optimizer, masks))
    return lambda masks: jp.recorded(build("removal", removal, inner=optimizer, masks=masks))


def _step_size(cfg: ConfigDict, where: str) -> Any:
    """The learning rate; with momentum, what a gradient moves a weight by in the end."""
    rate, momentum = cfg.optimizer.get("learning_rate"), cfg.optimizer.get("momentum") or 0.0
    if rate is None:
        raise UserError(f"{where}: proximal steps need config.optimizer.learning_rate.")
    if isinstance(rate, int | float):
        return rate / (1 - momentum)
    schedule = build("learning_rate", rate)
    return lambda step: schedule(step) / (1 - momentum)


def _with_gates(optimizer: optax.GradientTransformation, cfg: ConfigDict) -> Any:
    """The optimizer of weights and gates, or one for each."""
    if cfg.gate_optimizer is None:
        return optimizer
    own = {"weights": optimizer, "gates": build("optimizer", cfg.gate_optimizer)}
    return optax.partition(own, jp.gates.Gated("weights", "gates"))  # type: ignore[arg-type]
