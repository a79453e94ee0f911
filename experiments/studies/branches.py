"""The study of branches: trainings from levels of a ticket, with other masks, weights or example orders."""

from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from experiments.config.claim_sides import Side, check_claims
from experiments.config.fields import DENSE
from experiments.runs.options import Options
from experiments.studies import lottery
from experiments.studies.branch_plan import FIELDS, Plan, checked
from experiments.studies.study import Study

if TYPE_CHECKING:
    from experiments.reports.kind import ReportKind

__all__ = ["STUDY"]


def _check(cfg: ConfigDict) -> tuple[ConfigDict, Plan]:
    plan = checked(cfg)
    sides = {DENSE: Side()}
    for ticket, (_, section) in plan.tickets.items():
        sides[plan.name(ticket)] = lottery.claim_side(cfg, range(section["rounds"] + 1))
        for branch in plan.branches:
            name = plan.name(ticket, branch.label)
            sides[name] = lottery.claim_side(cfg, plan.levels_of(branch))
    check_claims(cfg.paper, sides)
    return cfg, plan


def _run(cfg: ConfigDict, plan: Plan, options: Options) -> None:
    from experiments.studies import branch_runs  # imports JAX

    branch_runs.run(cfg, plan, options)


def _report() -> "ReportKind":
    from experiments.reports.branches import REPORT

    return REPORT


STUDY = Study("branches", _check, _run, _report, FIELDS)
