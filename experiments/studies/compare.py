"""The comparison study: several methods or criteria, at several sparsities, over paired seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from experiments.config.claim_sides import Side, check_claims
from experiments.config.fields import DENSE
from experiments.runs.options import Options
from experiments.studies import contestants as contestants_lib
from experiments.studies.contestants import FIELDS, Contestant
from experiments.studies.study import Study

if TYPE_CHECKING:
    from experiments.reports.kind import ReportKind

__all__ = ["STUDY"]


def _check(cfg: ConfigDict) -> tuple[ConfigDict, list[Contestant]]:
    contestants = contestants_lib.contestants(cfg)
    sides = {
        contestant.label: Side(contestant.varies, contestant.points) for contestant in contestants
    }
    check_claims(cfg.paper, {DENSE: Side(), **sides}, metric="test_accuracy")
    return contestants_lib.with_digests(cfg, contestants), contestants


def _run(cfg: ConfigDict, contestants: Sequence[Contestant], options: Options) -> None:
    from experiments.studies import compare_runs  # imports JAX

    compare_runs.run(cfg, contestants, options)


def _report() -> "ReportKind":
    from experiments.reports.compare import REPORT

    return REPORT


STUDY = Study("compare", _check, _run, _report, FIELDS, called="comparison")
