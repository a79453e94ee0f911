"""The field `config.pretraining`: training of all networks on other data, before a comparison begins.

    pretraining={"data": part("mnist"), "steps": 6_000, "redrawn": "fc3"}

For each seed, one network is trained on these data without pruning. All contestants of that seed, including
the dense baseline, begin with its weights.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.config.fields import DEFAULTS, WAYS
from experiments.config.parts import UserError, check_part, unknown
from experiments.config.sections import check_expression, check_integer, check_optimizer

__all__ = ["FIELDS", "PRETRAINING", "check_pretraining", "pretraining_config"]

PRETRAINING = "pretraining"  # the field, and the folder of these trainings

FIELDS: dict[str, Any] = {
    "data": None,  # part: a data set of `jaxprune.data`, like `config.data`
    "steps": 0,  # number of updates, at least 1
    "optimizer": None,  # part; None: `config.optimizer`, with its schedule started anew
    # regular expression, searched in paths: parameters that the comparison initialises anew, such as the
    # classifier; "": none
    "redrawn": "",
}


def check_pretraining(cfg: ConfigDict) -> None:
    """Raises `UserError` unless `config.pretraining` is empty, or its fields are valid.

    Args:
      cfg: the config; its other fields have been checked.
    """
    where = f"config.{PRETRAINING}"
    for name in cfg.pretraining:
        if name not in FIELDS:
            raise UserError(unknown(f"{where}: no field", name, FIELDS, "Fields"))
    if not cfg.pretraining:
        return
    if not cfg.compare:
        raise UserError(f"{where}: only comparisons begin with trained weights; leave it out.")
    fields = {**FIELDS, **cfg.pretraining}
    if fields["data"] is None:
        raise UserError(f"{where}.data is None; name a data set with data=part(...).")
    check_part("data", fields["data"], f"{where}.data")
    check_integer(fields["steps"], f"{where}.steps", 1)
    if fields["optimizer"] is not None:
        check_optimizer(fields["optimizer"], f"{where}.optimizer")
    check_expression(fields["redrawn"], f"{where}.redrawn")


def pretraining_config(cfg: ConfigDict) -> ConfigDict:
    """Returns the config of the pretraining: dense training on the other data.

    Args:
      cfg: valid config of the comparison; its `pretraining` is not empty.
    """
    fields = {**FIELDS, **cfg.pretraining}
    replaced = {
        "data": fields["data"],
        "steps": fields["steps"],
        "optimizer": fields["optimizer"] or cfg.optimizer,
        "ema": 0.0,
        **{name: DEFAULTS[name] for name in (PRETRAINING, "compare", *WAYS)},
    }
    return ConfigDict({**cfg, **replaced}).lock()
