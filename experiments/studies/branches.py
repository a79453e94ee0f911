"""The study of a ticket's branches: other masks, weights and orders of the examples, from its levels."""

from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from experiments.runs.options import Options
from experiments.studies.branch_plan import FIELDS, Plan, checked
from experiments.studies.study import Study

if TYPE_CHECKING:
    from experiments.reports.kind import ReportKind

__all__ = ["STUDY"]


def _check(cfg: ConfigDict) -> tuple[ConfigDict, Plan]:
    return cfg, checked(cfg)


def _run(cfg: ConfigDict, plan: Plan, options: Options) -> None:
    from experiments.studies import branch_runs  # imports JAX

    branch_runs.run(cfg, plan, options)


def _report() -> "ReportKind":
    from experiments.reports.branches import REPORT

    return REPORT


STUDY = Study("branches", _check, _run, _report, FIELDS)
