"""The study of lottery tickets: iterative pruning with rewinding, and its controls."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from experiments.config import UserError, check_part, check_type, part, unknown
from experiments.config.claim_sides import Side, check_claims
from experiments.config.fields import DENSE, WAYS
from experiments.config.ranges import MOST_STEPS
from experiments.config.sections import check_integer, check_sequence, section_of
from experiments.runs.options import Options
from experiments.studies.study import Study

if TYPE_CHECKING:
    from experiments.reports.kind import ReportKind

__all__ = ["FIELDS", "STUDY", "checked", "claim_side"]

FIELDS: dict[str, Any] = {
    "rounds": 12,  # how often the network is pruned; the levels are 0 (dense) to `rounds`
    "rewind_to": 0,  # the rewinding point: a number of updates of level 0; 0 is the initialisation
    # what each round sets back to the rewinding point: "weights" (with optimizer and learning rate),
    # "learning_rate" (alone), or "finetune" (nothing: training goes on at the last learning rate)
    "rewind": "weights",
    # of "reinit" (new initial weights) and "shuffled" (masks shuffled within each layer)
    "controls": ("reinit",),
    "repeats": 1,  # trainings of each control at each level
    "criterion": "",  # name of `jaxprune.criteria`, which replaces the method's criterion; "": the method's
}
_CONTROLS = ("reinit", "shuffled")
_REWINDS = ("weights", "learning_rate", "finetune")
_OF_OTHER_WAYS = ("preconditioner", "gate_optimizer", "ema")


def checked(cfg: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.lottery`, with the defaults of those that it leaves out.

    Raises:
      UserError: a field of `config.lottery`, or a common field of the config, is not valid for a ticket.
    """
    section = section_of(cfg, "lottery", FIELDS)
    where = "config.lottery"
    check_integer(section["rounds"], f"{where}.rounds", least=0)
    check_integer(section["repeats"], f"{where}.repeats", least=1)
    check_integer(section["rewind_to"], f"{where}.rewind_to", least=0)
    if section["rewind_to"] >= cfg.steps:
        raise UserError(
            f"{where}.rewind_to={section['rewind_to']}: the rewinding point must lie before the end of a "
            f"level, config.steps={cfg.steps}."
        )
    if section["rewind"] not in _REWINDS:
        raise UserError(
            unknown(f"{where}.rewind: no way to rewind", section["rewind"], _REWINDS, "Known")
        )
    check_sequence(section["controls"], f"{where}.controls")
    for name in section["controls"]:
        if name not in _CONTROLS:
            raise UserError(unknown(f"{where}.controls: no control", name, _CONTROLS, "Controls"))
    if len(set(section["controls"])) < len(section["controls"]):
        raise UserError(f"{where}.controls={section['controls']}: each control once.")
    if cfg.early_stop:
        raise UserError(
            "config.early_stop: the levels of a ticket have a fixed length; set it to 0."
        )
    if cfg.k_folds:
        raise UserError(
            "config.k_folds: a ticket is trained on one hold-out per seed; set it to 0."
        )
    for name in (*(way for way in WAYS if way != "method"), *_OF_OTHER_WAYS):
        if cfg[name]:
            raise UserError(
                f"config.{name}: a ticket is trained with its method alone; leave it out."
            )
    if cfg.method is None:
        raise UserError(
            "config.method is None; a ticket needs one, such as magnitude(sparsity=0.2)."
        )
    check_type("str", section["criterion"], f"{where}.criterion")
    if section["criterion"]:
        check_part("criterion", part(section["criterion"]), f"{where}.criterion")
        if cfg.method.name == "partition":
            raise UserError(
                f"{where}.criterion={section['criterion']!r}: the methods of a partition have criteria of "
                "their own; set it to ''."
            )
    controls = len(section["controls"]) * section["repeats"]
    if cfg.steps * (section["rounds"] + 1) * (controls + 1) > MOST_STEPS:
        raise UserError(
            f"config.steps={cfg.steps} in {section['rounds']} rounds: more than {MOST_STEPS} updates in all."
        )
    return section


def claim_side(cfg: ConfigDict, levels: Iterable[int]) -> Side:
    """Returns how claims name the levels of a ticket: by the fraction of weights left.

    The fractions are known before the run only if the method is `magnitude` with a number as its sparsity.

    Args:
      cfg: valid config of the ticket.
      levels: indices of levels: how often the network has been pruned there.
    """
    sparsity = cfg.method.get("sparsity")
    if cfg.method.name != "magnitude" or not isinstance(sparsity, int | float):
        return Side("remaining")
    points = tuple((1 - sparsity) ** level for level in levels)
    return Side("remaining", points, is_exact=not {"allocation", "pattern"} & set(cfg.method))


def _check(cfg: ConfigDict) -> tuple[ConfigDict, dict[str, Any]]:
    section = checked(cfg)
    control = claim_side(cfg, range(1, section["rounds"] + 1))
    sides = {
        DENSE: Side(),
        "ticket": claim_side(cfg, range(section["rounds"] + 1)),
        **dict.fromkeys(section["controls"], control),
    }
    check_claims(cfg.paper, sides)
    return cfg, section


def _run(cfg: ConfigDict, section: dict[str, Any], options: Options) -> None:
    from experiments.studies import lottery_runs  # imports JAX

    lottery_runs.run(cfg, section, options)


def _report() -> "ReportKind":
    from experiments.reports.lottery import REPORT

    return REPORT


STUDY = Study("lottery", _check, _run, _report, FIELDS)
