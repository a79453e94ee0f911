"""The sensitivity study: how much accuracy pruning each layer costs, and how sparse each should be."""

from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from experiments.config import (
    UserError,
    check_part,
    check_type,
    training_examples,
    unknown,
    user_files,
)
from experiments.config.claim_sides import Side, check_claims
from experiments.config.fields import DENSE
from experiments.config.sections import check_criterion, check_integer, check_sequence, section_of
from experiments.runs.options import Options
from experiments.studies.study import Study

if TYPE_CHECKING:
    from experiments.reports.kind import ReportKind

__all__ = ["ALLOCATIONS", "FIELDS", "STUDY", "checked"]

FIELDS: dict[str, Any] = {
    "criterion": "magnitude",  # name of `jaxprune.criteria`, part, or "path/to/file.py:function"
    "pattern": None,  # part: a pattern of `jaxprune.patterns`; None: single weights
    "sparsities": (
        0.2,
        0.4,
        0.6,
        0.7,
        0.8,
        0.85,
        0.9,
        0.925,
        0.95,
        0.97,
        0.98,
        0.99,
    ),  # fractions removed from the one layer (leaf) that is pruned
    "cost": "flops",  # or "weights": the unit of the budget
    "budget": (0.2, 0.1, 0.05),  # fractions of the cost that may be left; one search for each
    "tolerance": 0.01,  # tolerated loss of validation accuracy, for one more search; 0: no such search
    "examples": 1_000,  # number of training examples from which the criterion's signals are computed
}
ALLOCATIONS = ("searched", "uniform", "ERK", "global")  # compared at each budget
_COSTS = ("flops", "weights")


def checked(cfg: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.sensitivity`, with the defaults of those that it leaves out.

    Raises:
      UserError: a field of `config.sensitivity`, or a common field of the config, is not valid.
    """
    section = section_of(cfg, "sensitivity", FIELDS)
    where = "config.sensitivity"
    if section["cost"] not in _COSTS:
        raise UserError(unknown(f"{where}.cost: no cost", section["cost"], _COSTS, "Known"))
    for name in ("sparsities", "budget"):
        values = section[name]
        check_sequence(values, f"{where}.{name}")
        for value in values:
            check_type("float", value, f"{where}.{name}")
        if not values or any(not 0 < value < 1 for value in values):
            raise UserError(f"{where}.{name}={values}: fractions between 0 and 1 are needed.")
        if len({f"{value:g}" for value in values}) < len(values):
            raise UserError(f"{where}.{name}={values}: different fractions are needed.")
    section["sparsities"] = sorted(section["sparsities"])
    check_type("float", section["tolerance"], f"{where}.tolerance")
    if not 0 <= section["tolerance"] < 1:
        raise UserError(
            f"{where}.tolerance={section['tolerance']}: a fraction of accuracy, from 0 to below 1, is needed."
        )
    check_integer(section["examples"], f"{where}.examples", least=1)
    if section["pattern"]:
        check_part("pattern", section["pattern"], f"{where}.pattern")
        if section["pattern"]["name"] == "coupled":
            raise UserError(
                f"{where}.pattern: each leaf is pruned alone, but coupled units run through several; use "
                "channel, or experiments.structured."
            )
    check_criterion(section["criterion"], f"{where}.criterion")
    if cfg.k_folds:
        raise UserError(
            "config.k_folds: layers are measured on one hold-out per seed; set it to 0."
        )
    if not cfg.validation:
        raise UserError(
            "config.validation=0: layers are measured on validation data, not on the test set; hold some out."
        )
    known = training_examples(cfg.data.name)
    if known is not None and section["examples"] > known - cfg.validation:
        raise UserError(
            f"{where}.examples={section['examples']}: at most {known - cfg.validation}, the number of "
            "training examples, are there."
        )
    return section


def _check(cfg: ConfigDict) -> tuple[ConfigDict, dict[str, Any]]:
    section = checked(cfg)
    allocation = Side("sparsity", tuple(1 - budget for budget in section["budget"]))
    sides = {DENSE: Side(), **dict.fromkeys(ALLOCATIONS, allocation)}
    check_claims(cfg.paper, sides, metric="test_accuracy")
    return _with_digest(cfg, section["criterion"]), section


def _with_digest(cfg: ConfigDict, criterion: Any) -> ConfigDict:
    """Returns the config with a hash of the user's file, so that each version has its own run folder."""
    if not isinstance(criterion, str) or not user_files.is_file(criterion):
        return cfg
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.sensitivity.file = user_files.digest(criterion)
    return cfg


def _run(cfg: ConfigDict, section: dict[str, Any], options: Options) -> None:
    from experiments.studies import sensitivity_runs  # imports JAX

    sensitivity_runs.run(cfg, section, options)


def _report() -> "ReportKind":
    from experiments.reports.sensitivity import REPORT

    return REPORT


STUDY = Study("sensitivity", _check, _run, _report, FIELDS, called="analysis")
