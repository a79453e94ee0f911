"""Checks of `config.paper`: what a report will read of it, after the run."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.config.parts import UserError, check_type, unknown

__all__ = ["CLAIMS", "check_paper"]

# By kind of claim, what it must say beside a metric; what that means is in `experiments.reports.claims`.
CLAIMS: dict[str, tuple[str, ...]] = {
    "at_least": ("value",),
    "lower_bound": ("b", "bound"),
    "matches": ("b",),
    "beats": ("b", "d"),
    "median_ratio": ("b", "below"),
    "smallest_level": ("a", "at_most"),
    "band": ("value",),
}
_NUMBERS = ("value", "bound", "margin", "d", "below", "at_most", "floor", "std", "remaining")


def check_paper(paper: Any) -> None:
    """Refuses claims that a report could not check.

    Args:
      paper: the field of a config.

    Raises:
      UserError: which claim, and what is wrong with it.
    """
    claims = paper.get("accept") or ()
    where = "config.paper.accept"
    if not isinstance(claims, tuple | list):
        raise UserError(f"{where}={claims!r}: a list of claims is needed, each a dict.")
    for index, claim in enumerate(claims):
        _check_claim(claim, f"{where}[{index}]")


def _check_claim(claim: Any, where: str) -> None:
    if not isinstance(claim, Mapping | ConfigDict):
        raise UserError(
            f"{where}={claim!r}: a claim is a dict with name, kind and what it compares."
        )
    kind = claim.get("kind")
    if kind not in tuple(CLAIMS):
        raise UserError(unknown(f"{where}: no kind of claim", kind, CLAIMS, "Kinds"))
    missing = [name for name in CLAIMS[kind] if name not in claim]
    if missing:
        raise UserError(f"{where}: a claim of the kind {kind!r} also needs {', '.join(missing)}.")
    for name in ("name", "metric", "against"):
        check_type("str", claim.get(name, ""), f"{where}.{name}")
    for name in _NUMBERS:
        check_type("float | None", claim.get(name), f"{where}.{name}")
