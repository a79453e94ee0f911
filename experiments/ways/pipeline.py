"""What criteria share in a comparison, so that they alone differ: when masks are made, how, and of what.

`config.compare.pipeline` is for all of them; a criterion may differ in some of it:

    criteria={"SNIP": "snip", "SynFlow": {"criterion": "synflow", "rounds": 100}}

Everything here is checked before JAX is imported.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.config import UserError, build, check_part, check_type, part, unknown, user_files

__all__ = ["FIELDS", "Pipeline", "check_criterion", "criterion", "pipeline"]

FIELDS: dict[str, Any] = {
    "when": "training",  # masks are made: "training", "initialisation" (before), or "trained" (after)
    "schedule": None,  # part, without sparsity: while training; otherwise they are made at once
    "pattern": None,  # part
    "allocation": None,  # part
    "rounds": 1,  # before or after training: cuts, each on signals of what is left
    "examples": 1_000,  # training examples that signals are gathered on
    "examples_per_class": 0,  # or as many of each class, all in one batch; 0: `examples` of any class
    "signals": {},  # keyword -> part of jaxprune.signals, to set its options
    "compensation": None,  # part of jaxprune.compensation, by which kept weights make up for others
    "finetune": 0,  # updates after pruning a trained network
    "optimizer": None,  # part: of these updates; None: config.optimizer, its schedule from the start
    "removal": None,  # part: what goes fades in the first of these updates; None: it goes before them
    "of": "dense",  # which trained network is pruned: the dense one, or one trained with a subgradient
}
_WHEN = ("training", "initialisation", "trained")
_PARTS = ("schedule", "pattern", "allocation", "compensation")
_ON_DATA = ("rounds", "examples", "examples_per_class", "signals", "compensation")


class Pipeline(NamedTuple):
    """The fields, as they are for one criterion."""

    when: str
    schedule: Any
    pattern: Any
    allocation: Any
    rounds: int
    examples: int
    examples_per_class: int
    signals: Mapping[str, Any]
    compensation: Any
    finetune: int
    optimizer: Any
    removal: Any
    of: str

    def method(self, criterion: Any, sparsity: float) -> Any:
        """The method that makes the masks."""
        import jaxprune as jp

        given = {k: build(k, v) for k in ("pattern", "allocation") if (v := getattr(self, k))}
        spec = self.schedule or part("one_shot")
        schedule = build("schedule", spec, sparsity=sparsity)
        return jp.Method(criterion, schedule=schedule, **given)


def criterion(spec: Any) -> tuple[Any, dict[str, Any]]:
    """Splits an entry of `compare.criteria` into the criterion and what of the pipeline is its own."""
    if isinstance(spec, str) or "name" in spec:
        return spec, {}
    own = dict(spec)
    return own.pop("criterion"), own


def pipeline(common: Mapping[str, Any], spec: Any) -> Pipeline:
    """The pipeline of one entry of `compare.criteria`."""
    return Pipeline(**{**FIELDS, **common, **criterion(spec)[1]})


def check_criterion(common: Any, spec: Any, where: str) -> None:
    """Raises `UserError` unless an entry of `compare.criteria` names what there is, and fits its pipeline."""
    shared = "config.compare.pipeline"
    if not isinstance(common, Mapping):
        raise UserError(f"{shared}={common!r}: a dict is needed, of {', '.join(FIELDS)}.")
    if not isinstance(spec, str) and "name" not in spec and "criterion" not in spec:
        raise UserError(
            f"{where}: a name, a part, a file, or {{'criterion': one of these, ...}} with fields of the "
            f"pipeline is needed; found {dict(spec)!r}."
        )
    named, own = criterion(spec)
    for asked, place in ((common, shared), (own, where)):
        for field in asked:
            if field not in FIELDS:
                raise UserError(unknown(f"{place}: no field", field, FIELDS, "Fields"))
    found = pipeline(common, spec)
    _check(found, shared if not own else where)
    if isinstance(named, str) and user_files.is_file(named):
        user_files.check(named, where)
    else:
        check_part("criterion", part(named) if isinstance(named, str) else named, where)


def _check(found: Pipeline, where: str) -> None:
    if found.when not in _WHEN:
        raise UserError(unknown(f"{where}.when: no time", found.when, _WHEN, "Known"))
    for name in _PARTS:
        if spec := getattr(found, name):
            check_part(name, spec, f"{where}.{name}", ("sparsity",) if name == "schedule" else ())
    for name in ("rounds", "examples", "examples_per_class", "finetune"):
        check_type("int", getattr(found, name), f"{where}.{name}")
        least = 0 if name in ("finetune", "examples_per_class") else 1
        if getattr(found, name) < least:
            raise UserError(f"{where}.{name}={getattr(found, name)}: at least {least} is needed.")
    for keyword, spec in found.signals.items():
        check_part("signal", spec, f"{where}.signals.{keyword}")
    if found.when == "training":
        if not found.schedule:
            raise UserError(
                f"{where}: criteria need a schedule: pipeline={{'schedule': part('cubic', begin=..., "
                "end=..., every=...)}; or 'when': 'initialisation' or 'trained', to prune at once."
            )
        idle = [name for name in _ON_DATA if getattr(found, name) != FIELDS[name]]
        if idle:
            raise UserError(
                f"{where}.{idle[0]}: while training criteria read the gradients of the step; say when: "
                "'initialisation' or 'trained'."
            )
    elif found.schedule:
        raise UserError(f"{where}.schedule: when='{found.when}' prunes at once; leave it out.")
    if found.of != FIELDS["of"] and found.when != "trained":
        raise UserError(f"{where}.of: only where when='trained' is there a network to prune.")
    if found.finetune and found.when != "trained":
        raise UserError(f"{where}.finetune: only what is pruned after training is fine-tuned.")
    if found.optimizer:
        check_part("optimizer", found.optimizer, f"{where}.optimizer")
        if not found.finetune:
            raise UserError(f"{where}.optimizer: it is for fine-tuning; give finetune=.")
    if found.removal:
        _check_removal(found, f"{where}.removal")


def _check_removal(found: Pipeline, where: str) -> None:
    check_part("removal", found.removal, where, supplied=("inner", "masks"))
    if found.when != "trained":
        raise UserError(f"{where}: only what is pruned after training can fade; leave it out.")
    if found.compensation:
        raise UserError(f"{where}: what fades is made up for by training; leave compensation out.")
    if found.removal["until"] >= found.finetune:
        raise UserError(
            f"{where}.until={found.removal['until']}: weights go before the last of "
            f"finetune={found.finetune} updates."
        )
