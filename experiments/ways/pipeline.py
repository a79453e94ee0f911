"""What criteria share in a comparison, so that they alone differ: when masks are made, how, and of what.

`config.compare.pipeline` is for all of them; a criterion may differ in some of it:

    criteria={"SNIP": "snip", "SynFlow": {"criterion": "synflow", "rounds": 100}}

Everything here is checked before JAX is imported.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.config import UserError, build, check_part, check_type, part, unknown, user_files

__all__ = ["FIELDS", "Pipeline", "check_criterion", "criterion", "labelled_criteria", "pipeline"]

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
    """The fields, as they are for one criterion: see `FIELDS`."""

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
        """Returns the method that makes the masks.

        Args:
          criterion: a function.
          sparsity: fraction removed.
        """
        import jaxprune as jp

        parts = {"pattern": self.pattern, "allocation": self.allocation}
        built = {kind: build(kind, spec) for kind, spec in parts.items() if spec}
        schedule_part = self.schedule or part("one_shot").to_dict()
        schedule = build("schedule", schedule_part, sparsity=sparsity)
        return jp.Method(criterion, schedule=schedule, **built)


def criterion(spec: Any) -> tuple[Any, dict[str, Any]]:
    """Splits an entry of `compare.criteria` into the criterion and its own fields of the pipeline.

    Args:
      spec: a name, a part, a file, or a dict with one of these and fields.

    >>> criterion({"criterion": "synflow", "rounds": 100})
    ('synflow', {'rounds': 100})
    """
    if isinstance(spec, str) or "name" in spec:
        return spec, {}
    overrides = dict(spec)
    return overrides.pop("criterion"), overrides


def labelled_criteria(criteria: Any) -> list[tuple[str, Any]]:
    """Returns the label of each entry of `compare.criteria`, by default the criterion's name, and the entry.

    >>> labelled_criteria(["magnitude", "my.py:relative_step"])
    [('magnitude', 'magnitude'), ('relative_step', 'my.py:relative_step')]
    """
    if isinstance(criteria, Mapping):
        return list(criteria.items())
    references = [criterion(spec)[0] for spec in criteria]
    names = [each if isinstance(each, str) else each["name"] for each in references]
    return [(name.rpartition(":")[2], spec) for name, spec in zip(names, criteria, strict=True)]


def pipeline(common: Mapping[str, Any], spec: Any) -> Pipeline:
    """Returns the pipeline of one entry of `compare.criteria`.

    Args:
      common: fields that all criteria share.
      spec: the entry.

    >>> pipeline({"when": "trained"}, {"criterion": "obd", "rounds": 2}).rounds
    2
    """
    return Pipeline(**{**FIELDS, **common, **criterion(spec)[1]})


def check_criterion(common: Any, spec: Any, where: str) -> None:
    """Raises `UserError` unless an entry of `compare.criteria` names what there is, and fits its pipeline.

    Args:
      common: fields that all criteria share.
      spec: the entry.
      where: in the config, to blame.
    """
    shared = "config.compare.pipeline"
    if not isinstance(common, Mapping):
        raise UserError(f"{shared}={common!r}: a dict is needed, of {', '.join(FIELDS)}.")
    if not isinstance(spec, str) and "name" not in spec and "criterion" not in spec:
        raise UserError(
            f"{where}: a name, a part, a file, or {{'criterion': one of these, ...}} with fields of the "
            f"pipeline is needed; found {dict(spec)!r}."
        )
    reference, overrides = criterion(spec)
    for fields, place in ((common, shared), (overrides, where)):
        for field in fields:
            if field not in FIELDS:
                raise UserError(unknown(f"{place}: no field", field, FIELDS, "Fields"))
    merged = pipeline(common, spec)
    _check(merged, shared if not overrides else where)
    if isinstance(reference, str) and user_files.is_file(reference):
        user_files.check(reference, where)
    else:
        check_part("criterion", part(reference) if isinstance(reference, str) else reference, where)


def _check(merged: Pipeline, where: str) -> None:
    if merged.when not in _WHEN:
        raise UserError(unknown(f"{where}.when: no time", merged.when, _WHEN, "Known"))
    for name in _PARTS:
        if spec := getattr(merged, name):
            check_part(name, spec, f"{where}.{name}", ("sparsity",) if name == "schedule" else ())
    for name in ("rounds", "examples", "examples_per_class", "finetune"):
        check_type("int", getattr(merged, name), f"{where}.{name}")
        least = 0 if name in ("finetune", "examples_per_class") else 1
        if getattr(merged, name) < least:
            raise UserError(f"{where}.{name}={getattr(merged, name)}: at least {least} is needed.")
    for keyword, spec in merged.signals.items():
        check_part("signal", spec, f"{where}.signals.{keyword}")
    if merged.when == "training":
        if not merged.schedule:
            raise UserError(
                f"{where}: criteria need a schedule: pipeline={{'schedule': part('cubic', begin=..., "
                "end=..., every=...)}; or 'when': 'initialisation' or 'trained', to prune at once."
            )
        idle = [name for name in _ON_DATA if getattr(merged, name) != FIELDS[name]]
        if idle:
            raise UserError(
                f"{where}.{idle[0]}: while training criteria read the gradients of the step; say when: "
                "'initialisation' or 'trained'."
            )
    elif merged.schedule:
        raise UserError(f"{where}.schedule: when='{merged.when}' prunes at once; leave it out.")
    if merged.of != FIELDS["of"] and merged.when != "trained":
        raise UserError(f"{where}.of: only where when='trained' is there a network to prune.")
    if merged.finetune and merged.when != "trained":
        raise UserError(f"{where}.finetune: only what is pruned after training is fine-tuned.")
    if merged.optimizer:
        check_part("optimizer", merged.optimizer, f"{where}.optimizer")
        if not merged.finetune:
            raise UserError(f"{where}.optimizer: it is for fine-tuning; give finetune=.")
    if merged.removal:
        _check_removal(merged, f"{where}.removal")


def _check_removal(merged: Pipeline, where: str) -> None:
    check_part("removal", merged.removal, where, supplied=("inner", "masks"))
    if merged.when != "trained":
        raise UserError(f"{where}: only what is pruned after training can fade; leave it out.")
    if merged.compensation:
        raise UserError(f"{where}: what fades is made up for by training; leave compensation out.")
    if merged.removal["until"] >= merged.finetune:
        raise UserError(
            f"{where}.until={merged.removal['until']}: weights go before the last of "
            f"finetune={merged.finetune} updates."
        )
