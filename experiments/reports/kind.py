"""The parts of a report that depend on its study, and the outcome of a claim."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.reports import stats

__all__ = ["OpenError", "Outcome", "ReportKind"]


class Outcome(NamedTuple):
    """The outcome of a claim.

    Attributes:
      name: of the claim.
      verdict: "holds", "refuted" or "open"; "" if nothing was claimed.
      ours: our number, with its bounds, in words.
      needed: what the number must be, in words.
      n: seeds.
      published: the paper's own words or number.
      against: what the claim is held against, see `experiments.config.paper.AGAINST`; "" if nothing was
        claimed.
    """

    name: str
    verdict: stats.Word | Literal[""]
    ours: str
    needed: str
    n: int
    published: str = ""
    against: str = ""


class OpenError(Exception):
    """A claim cannot be checked; the message says why."""


def _no_lines(results: Mapping[str, Any]) -> Sequence[str]:
    return ()


class ReportKind(NamedTuple):
    """The parts of a report that depend on the study.

    Attributes:
      body: results -> sections.
      headline: results -> the outcome that a run without claims shows.
      plots: (results, run folder) -> names of the files drawn there.
      values: (results, claim, side) -> the values on a side of a claim, one per seed; raises `OpenError`.
      metric: of a claim that names none.
      has_dense: whether the spread of the dense network is the margin of claims that give none.
      shown: fields of the config that the head of the report shows beside its parts.
      details: results -> more lines of the head.
    """

    body: Callable[[Mapping[str, Any]], list[str]]
    headline: Callable[[Mapping[str, Any]], Outcome]
    plots: Callable[[Mapping[str, Any], Path], Sequence[str]]
    values: Callable[[Mapping[str, Any], Mapping[str, Any], Any], list[float]]
    metric: str | None = None
    has_dense: bool = True
    shown: tuple[str, ...] = ("normalize", "ema", "prunable", "steps")
    details: Callable[[Mapping[str, Any]], Sequence[str]] = _no_lines
