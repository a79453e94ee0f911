"""The study of one model: trained over seeds or folds, dense or sparse."""

from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from experiments.config import way_of
from experiments.config.claim_sides import check_claims
from experiments.config.sections import check_end
from experiments.runs.options import Options
from experiments.studies.study import Study

if TYPE_CHECKING:
    from experiments.reports.kind import ReportKind

__all__ = ["STUDY"]


def _check(cfg: ConfigDict) -> tuple[ConfigDict, str | None]:
    way = way_of(cfg)
    if way is not None:
        spec: Any = cfg[way]
        check_end(spec, cfg.steps, f"config.{way}")
    check_claims(cfg.paper, sides={})
    return cfg, way


def _run(cfg: ConfigDict, way: str | None, options: Options) -> None:
    from experiments.studies import train_runs  # imports JAX

    train_runs.run(cfg, way, options)


def _report() -> "ReportKind":
    from experiments.reports.train import REPORT

    return REPORT


STUDY = Study("train", _check, _run, _report)
