"""The study of removing whole units: a comparison whose patterns are all `coupled`."""

from typing import Any

from ml_collections import ConfigDict

from experiments.config import UserError, part
from experiments.studies import compare

__all__ = ["STUDY"]


def _check(cfg: ConfigDict) -> tuple[ConfigDict, Any]:
    _check_patterns(cfg)
    return compare.STUDY.check(cfg)


def _check_patterns(cfg: ConfigDict) -> None:
    """Everybody's pattern is `coupled`; where a criterion has none, all groups are meant."""
    pipeline = cfg.compare.get("pipeline")
    if cfg.compare.get("criteria") and pipeline is not None and "pattern" not in pipeline:
        with pipeline.unlocked():
            pipeline.pattern = part("coupled")
    by_label = {"pipeline": pipeline or {}, **dict(cfg.compare.get("methods") or {})}
    for label, spec in by_label.items():
        pattern = spec.get("pattern")
        is_left_out = label == "pipeline" and pattern is None
        if not is_left_out and (pattern or {}).get("name") != "coupled":
            raise UserError(
                f"config.compare: {label} has the pattern {pattern and pattern.get('name')!r}; here whole "
                "units are removed: pattern=part('coupled'), or use experiments.compare."
            )


STUDY = compare.STUDY._replace(check=_check)
