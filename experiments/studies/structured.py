"""The study of removing whole units: a comparison whose patterns are all `coupled`."""

from typing import Any

from ml_collections import ConfigDict

from experiments.config import UserError, part
from experiments.studies import compare

__all__ = ["STUDY"]


def _check(cfg: ConfigDict) -> tuple[ConfigDict, Any]:
    cfg = _with_pattern(cfg)
    _check_patterns(cfg)
    return compare.STUDY.check(cfg)


def _with_pattern(cfg: ConfigDict) -> ConfigDict:
    """The config, in which criteria without a pattern mean all groups of coupled units."""
    pipeline = cfg.compare.get("pipeline")
    if not cfg.compare.get("criteria") or pipeline is None or "pattern" in pipeline:
        return cfg
    cfg = cfg.copy_and_resolve_references()
    with cfg.compare.pipeline.unlocked():
        cfg.compare.pipeline.pattern = part("coupled")
    return cfg


def _check_patterns(cfg: ConfigDict) -> None:
    """Everybody's pattern is `coupled`."""
    pipeline = cfg.compare.get("pipeline")
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
