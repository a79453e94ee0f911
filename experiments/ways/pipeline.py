"""The settings that all criteria of a comparison share: when masks are made, by which schedule and pattern.

`config.compare.pipeline` holds for all criteria. An entry of `criteria` may replace some of its fields:

    criteria={"SNIP": "snip", "SynFlow": {"criterion": "synflow", "rounds": 100}}

Everything here is checked before JAX is imported.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.config import UserError, build, check_part, check_type, part, unknown, user_files

__all__ = ["FIELDS", "Pipeline", "check_criterion", "criterion", "labelled_criteria", "pipeline"]

FIELDS: dict[str, Any] = {
    # when masks are made: "training" (by the schedule), "initialisation" (at once, before training), or
    # "trained" (at once, on a trained network)
    "when": "training",
    "schedule": None,  # part, without its sparsity; required with when="training", refused otherwise
    "pattern": None,  # part: a pattern; None: single weights
    "allocation": None,  # part: an allocation; None: the same fraction in each layer
    "rounds": 1,  # not in training: number of cuts; each computes signals of the remaining network anew
    "examples": 1_000,  # number of training examples from which signals are computed
    # above 0: signals are computed from this many examples of each class, in one batch; 0: from `examples` of
    # any class
    "examples_per_class": 0,
    "signals": {},  # keyword of a criterion -> part of jaxprune.signals, to set options of that signal
    "compensation": None,  # part of jaxprune.compensation: changes kept weights to make up for removed ones
    "finetune": 0,  # number of updates after a trained network is pruned
    # part: the optimizer of fine-tuning; None: config.optimizer, with its schedule started anew
    "optimizer": None,
    # part: weights to be removed decay during the first updates of fine-tuning; None: they are removed before
    "removal": None,
    # which trained network is pruned: "dense", or the label of a subgradient with which it was trained
    "of": "dense",
}
_WHEN = ("training", "initialisation", "trained")
_PARTS = ("schedule", "pattern", "allocation", "compensation")
_ON_DATA = ("rounds", "examples", "examples_per_class", "signals", "compensation")


class Pipeline(NamedTuple):
    """The fields of the pipeline for one criterion: see `FIELDS`."""

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
        """Returns the `jaxprune.Method` that makes the masks.

        Args:
          criterion: a criterion, `(params, *, <signals>, **_) -> scores`.
          sparsity: fraction of the weights removed at the end.
        """
        import jaxprune as jp

        parts = {"pattern": self.pattern, "allocation": self.allocation}
        built = {kind: build(kind, spec) for kind, spec in parts.items() if spec}
        schedule_part = self.schedule or part("one_shot").to_dict()
        schedule = build("schedule", schedule_part, sparsity=sparsity)
        return jp.Method(criterion, schedule=schedule, **built)


def criterion(spec: Any) -> tuple[Any, dict[str, Any]]:
    """Returns the criterion of an entry of `compare.criteria`, and the pipeline fields that it replaces.

    Args:
      spec: a name, a part, a file, or a dict with one of these as "criterion" beside pipeline fields.

    >>> criterion({"criterion": "synflow", "rounds": 100})
    ('synflow', {'rounds': 100})
    """
    if isinstance(spec, str) or "name" in spec:
        return spec, {}
    overrides = dict(spec)
    return overrides.pop("criterion"), overrides


def labelled_criteria(criteria: Any) -> list[tuple[str, Any]]:
    """Returns (label, entry) for each entry of `compare.criteria`; the default label is the criterion's name.

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
      common: the fields that all criteria share, `config.compare.pipeline`.
      spec: the entry.

    >>> pipeline({"when": "trained"}, {"criterion": "obd", "rounds": 2}).rounds
    2
    """
    return Pipeline(**{**FIELDS, **common, **criterion(spec)[1]})


def check_criterion(common: Any, spec: Any, where: str) -> None:
    """Raises `UserError` unless an entry of `compare.criteria` names a criterion and has a valid pipeline.

    Args:
      common: the fields that all criteria share, `config.compare.pipeline`.
      spec: the entry.
      where: the entry's place in the config, for error messages.
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
