"""The study of structured pruning: a comparison in which every pattern is `coupled`."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from experiments.config import UserError, part
from experiments.studies import compare
from experiments.studies.contestant_kinds import ByCriterion, ByWay, Contestant

__all__ = ["STUDY"]


def _check(cfg: ConfigDict) -> tuple[ConfigDict, list[Contestant]]:
    cfg, contestants = compare.STUDY.check(_with_pattern(cfg))
    for contestant in contestants:
        _check_pattern(contestant)
    return cfg, contestants


def _with_pattern(cfg: ConfigDict) -> ConfigDict:
    """Returns the config with the pattern `coupled`, of all groups, if its criteria have no pattern."""
    pipeline = cfg.compare.get("pipeline", {})
    if not cfg.compare.get("criteria") or not isinstance(pipeline, ConfigDict | Mapping):
        return cfg
    if pipeline.get("pattern") is not None:
        return cfg
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.compare.pipeline = ConfigDict({**pipeline, "pattern": part("coupled")})
    return cfg


def _check_pattern(contestant: Contestant) -> None:
    """Refuses a criterion or a method whose pattern is not `coupled`."""
    if isinstance(contestant, ByCriterion):
        pattern = contestant.pipeline.pattern
    elif isinstance(contestant, ByWay) and contestant.way == "method":
        pattern = contestant.spec.get("pattern")
    else:
        return
    if (pattern or {}).get("name") != "coupled":
        raise UserError(
            f"{contestant.where}: {contestant.label} has the pattern {pattern and pattern.get('name')!r}; "
            "here whole units are removed: pattern=part('coupled'), or use experiments.compare."
        )


STUDY = compare.STUDY._replace(check=_check)
