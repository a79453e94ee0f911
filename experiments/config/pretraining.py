"""What `config.pretraining` says: on which other data all networks are trained before a comparison begins.

    pretraining={"data": part("mnist"), "steps": 6_000, "redrawn": "fc3"}

The network is trained without any pruning, once for each seed; every contestant, the dense baseline too,
begins with its weights.
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
    "steps": 0,  # updates
    "optimizer": None,  # part; None: `config.optimizer`, its schedule from the start
    "redrawn": "",  # regular expression: leaves that begin anew, such as a classifier; "": none
}


def check_pretraining(cfg: ConfigDict) -> None:
    """Raises `UserError` unless `config.pretraining` is empty or says what to train on, and for how long.

    Args:
      cfg: the config, its other fields checked.
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
    """Returns the config of the training before a comparison: dense, on the other data.

    Args:
      cfg: of the comparison, valid, with a `pretraining`.
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
