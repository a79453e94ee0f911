"""The fields of a config that belong to one binary, checked before JAX is imported.

`compare` has a module of its own, `experiments.studies.contestants`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.config import user_files
from experiments.config.fields import SECTIONS
from experiments.config.parts import UserError, check_part, check_type, part, training_examples
from experiments.config.parts import unknown as unknown_name
from experiments.config.ranges import MOST_STEPS

__all__ = ["check_end", "lottery", "sensitivity"]

_CONTROLS = ("reinit", "shuffled")
_REWINDS = ("weights", "learning_rate", "finetune")
_COSTS = ("flops", "weights")
_WAYS_OF_OTHERS = ("gate", "penalty", "subgradient", "preconditioner", "gate_optimizer", "ema")


def lottery(cfg: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.lottery`, at their defaults where it says nothing.

    Raises:
      UserError: a field, or a common field of the config, is not what a ticket can have.
    """
    asked = _fields(cfg, "lottery")
    where = "config.lottery"
    _check_integer(asked["rounds"], f"{where}.rounds", least=0)
    _check_integer(asked["repeats"], f"{where}.repeats", least=1)
    _check_integer(asked["rewind_to"], f"{where}.rewind_to", least=0)
    if asked["rewind_to"] >= cfg.steps:
        raise UserError(
            f"{where}.rewind_to={asked['rewind_to']}: the rewinding point must lie before the end of a "
            f"level, config.steps={cfg.steps}."
        )
    if asked["rewind"] not in _REWINDS:
        raise UserError(
            unknown_name(f"{where}.rewind: no way to rewind", asked["rewind"], _REWINDS, "Known")
        )
    _check_sequence(asked["controls"], f"{where}.controls")
    for name in asked["controls"]:
        if name not in _CONTROLS:
            raise UserError(
                unknown_name(f"{where}.controls: no control", name, _CONTROLS, "Controls")
            )
    if len(set(asked["controls"])) < len(asked["controls"]):
        raise UserError(f"{where}.controls={asked['controls']}: each control once.")
    if cfg.early_stop:
        raise UserError(
            "config.early_stop: the levels of a ticket have a fixed length; set it to 0."
        )
    if cfg.k_folds:
        raise UserError(
            "config.k_folds: a ticket is trained on one hold-out per seed; set it to 0."
        )
    for name in _WAYS_OF_OTHERS:
        if cfg[name]:
            raise UserError(
                f"config.{name}: a ticket is trained with its method alone; leave it out."
            )
    if cfg.method is None:
        raise UserError(
            "config.method is None; a ticket needs one, such as magnitude(sparsity=0.2)."
        )
    controls = len(asked["controls"]) * asked["repeats"]
    if cfg.steps * (asked["rounds"] + 1) * (controls + 1) > MOST_STEPS:
        raise UserError(
            f"config.steps={cfg.steps} in {asked['rounds']} rounds: more than {MOST_STEPS} updates in all."
        )
    return asked


def sensitivity(cfg: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.sensitivity`, at their defaults where it says nothing.

    Raises:
      UserError: a field, or a common field of the config, is not what an analysis can have.
    """
    asked, where = _fields(cfg, "sensitivity"), "config.sensitivity"
    if asked["cost"] not in _COSTS:
        raise UserError(unknown_name(f"{where}.cost: no cost", asked["cost"], _COSTS, "Known"))
    for name in ("sparsities", "keep"):
        values = asked[name]
        _check_sequence(values, f"{where}.{name}")
        for value in values:
            check_type("float", value, f"{where}.{name}")
        if not values or any(not 0 < value < 1 for value in values):
            raise UserError(f"{where}.{name}={values}: fractions between 0 and 1 are needed.")
        if len({f"{value:g}" for value in values}) < len(values):
            raise UserError(f"{where}.{name}={values}: different fractions are needed.")
    asked["sparsities"] = sorted(asked["sparsities"])
    check_type("float", asked["tolerance"], f"{where}.tolerance")
    if not 0 <= asked["tolerance"] < 1:
        raise UserError(
            f"{where}.tolerance={asked['tolerance']}: a fraction of accuracy, from 0 to below 1, is needed."
        )
    _check_integer(asked["examples"], f"{where}.examples", least=1)
    if asked["pattern"]:
        check_part("pattern", asked["pattern"], f"{where}.pattern")
        if asked["pattern"]["name"] == "coupled":
            raise UserError(
                f"{where}.pattern: each leaf is pruned alone, but coupled units run through several; use "
                "channel, or experiments.structured."
            )
    _check_criterion(asked["criterion"], f"{where}.criterion")
    if cfg.k_folds:
        raise UserError(
            "config.k_folds: layers are measured on one hold-out per seed; set it to 0."
        )
    if not cfg.validation:
        raise UserError(
            "config.validation=0: layers are measured on validation data, not on the test set; hold some out."
        )
    known = training_examples(cfg.data.name)
    if known is not None and asked["examples"] > known - cfg.validation:
        raise UserError(
            f"{where}.examples={asked['examples']}: at most {known - cfg.validation}, the number of training "
            "examples, are there."
        )
    return asked


def check_end(spec: Mapping[str, Any] | None, steps: int, where: str) -> None:
    """Refuses a method or gate whose schedule ends after training, where that can be read from its part.

    Args:
      spec: the part, or `None`.
      steps: updates of the training.
      where: in the config, to blame.
    """
    for place, given in ((where, spec or {}), (f"{where}.schedule", (spec or {}).get("schedule"))):
        for name in ("end", "at", "begin"):
            step = given.get(name) if isinstance(given, Mapping | ConfigDict) else None
            if type(step) is int and step > steps:
                raise UserError(
                    f"{place}.{name}={step}: training ends after config.steps={steps}; the target would not "
                    "be reached."
                )


def _fields(cfg: ConfigDict, section: str) -> dict[str, Any]:
    own = cfg[section].to_dict()
    for name in own:
        if name not in SECTIONS[section]:
            says = f"config.{section}: no field"
            raise UserError(unknown_name(says, name, SECTIONS[section], "Fields"))
    return {**SECTIONS[section], **own}


def _check_criterion(spec: Any, where: str) -> None:
    if isinstance(spec, str) and user_files.is_file(spec):
        user_files.check(spec, where)
    else:
        check_part("criterion", part(spec) if isinstance(spec, str) else spec, where)


def _check_integer(value: Any, where: str, least: int) -> None:
    check_type("int", value, where)
    if not least <= value <= MOST_STEPS:
        raise UserError(f"{where}={value}: at least {least} and at most {MOST_STEPS} is needed.")


def _check_sequence(value: Any, where: str) -> None:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"{where}={value!r}: a tuple is needed.")
