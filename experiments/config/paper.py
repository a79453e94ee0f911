"""Checks, before the run, of the fields of `config.paper` that the report reads after it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.config.metrics import is_share, lower_is_better
from experiments.config.parts import UserError, check_type, unknown

__all__ = ["AGAINST", "CLAIMS", "check_claim", "check_paper", "labelled_claims"]

# What a claim may be compared with: the values of `against`, with the words of the report.
AGAINST = {
    "figure": "a paper's own figure",
    "shortened": "a paper's figure, by a shortened protocol",
    "order": "a published order or statement",
    "own": "a bar of our own",
}
# Kind of claim -> fields that it must have; `experiments.reports.claims` explains them.
CLAIMS: dict[str, tuple[str, ...]] = {
    "at_least": ("value",),
    "lower_bound": ("b", "bound"),
    "matches": ("b",),
    "beats": ("b", "d"),
    "median_ratio": ("b", "below"),
    "smallest_level": ("a", "at_most"),
    "band": ("value",),
}
_FIELDS = ("citation", "table", "number", "departures", "against", "accept")
_FIELDS_OF_CLAIMS = (
    *("name", "kind", "metric", "a", "against", "published"),
    *("sparsity", "strength", "remaining"),
)
_OPTIONAL = {"matches": ("margin",), "band": ("floor", "std")}  # kind -> fields that it may have
# Kinds for which it must be known whether more or less of the metric is better.
_RANKING = ("matches", "beats", "smallest_level")


def _is_not_negative(number: float) -> bool:
    return number >= 0


def _is_share_left(number: float) -> bool:
    return 0 < number <= 1


# Numeric field of a claim -> the values that it may have, in words, and a test of a value.
_NEEDED: dict[str, tuple[str, Callable[[float], bool]]] = {
    "sparsity": ("a fraction removed, from 0 to below 1,", lambda number: 0 <= number < 1),
    "remaining": ("a fraction of weights left, above 0 and at most 1,", _is_share_left),
    "at_most": ("a fraction of weights left, above 0 and at most 1,", _is_share_left),
    "below": ("a ratio above 0", lambda number: number > 0),
    **dict.fromkeys(("d", "margin", "floor", "std"), ("0 or more", _is_not_negative)),
}
_NUMBERS = (*_NEEDED, "value", "bound")


def check_paper(paper: Any) -> None:
    """Refuses fields that a report could not read, and claims that it could not check.

    The study checks what the claims compare, `a` and `b` (`experiments.config.claim_sides`).

    Args:
      paper: `config.paper`.

    Raises:
      UserError: a field or claim is invalid; the message says which, and why.
    """
    for name in paper:
        if name not in _FIELDS:
            raise UserError(unknown("config.paper: no field", name, _FIELDS, "Fields"))
    for name in ("citation", "table", "number", "departures"):
        _check_type("str | float | None", paper.get(name), f"config.paper.{name}")
    _check_against(paper.get("against"), "config.paper")
    for claim, where in labelled_claims(paper):
        check_claim(claim, where)
        known = (*_FIELDS_OF_CLAIMS, *CLAIMS[claim["kind"]], *_OPTIONAL.get(claim["kind"], ()))
        for name in claim:
            if name not in known:
                says = f"{where}: a claim of the kind {claim['kind']!r} has no field"
                raise UserError(unknown(says, name, dict.fromkeys(known), "Fields"))


def labelled_claims(paper: Any) -> Iterator[tuple[Any, str]]:
    """Yields each claim of a `config.paper`, with its name in error messages.

    Raises:
      UserError: `accept` is not a list.
    """
    claims = paper.get("accept") or ()
    if not isinstance(claims, tuple | list):
        raise UserError(f"config.paper.accept={claims!r}: a list of claims is needed, each a dict.")
    for index, claim in enumerate(claims):
        name = claim.get("name") if isinstance(claim, Mapping | ConfigDict) else None
        yield claim, f"config.paper.accept[{index}]" + (f" ({name})" if name else "")


def check_claim(claim: Any, where: str) -> None:
    """Refuses a claim that cannot be checked: its kind is unknown, or a number is impossible.

    Args:
      claim: an entry of `paper.accept`; a field that is `None` counts as left out.
      where: its name in error messages.

    Raises:
      UserError: the claim is invalid; the message says why.
    """
    if not isinstance(claim, Mapping | ConfigDict):
        raise UserError(
            f"{where}={claim!r}: a claim is a dict with name, kind and what it compares."
        )
    given: dict[str, Any] = {name: value for name, value in claim.items() if value is not None}
    _check_against(given.get("against"), where)
    kind = given.get("kind")
    if kind not in tuple(CLAIMS):
        raise UserError(unknown(f"{where}: no kind of claim", kind, CLAIMS, "Kinds"))
    missing = [name for name in CLAIMS[kind] if name not in given]
    if missing:
        raise UserError(f"{where}: a claim of the kind {kind!r} also needs {', '.join(missing)}.")
    for name in ("name", "metric", "against"):
        _check_type("str | None", given.get(name), f"{where}: {name}")
    for name in ("a", "b", "published"):
        _check_type("str | float | None", given.get(name), f"{where}: {name}")
    if isinstance(given.get("a"), int | float) and not isinstance(given.get("b"), str):
        raise UserError(f"{where}: a={given['a']} is no result; let a or b be the name of one.")
    for name in _NUMBERS:
        if name in given:
            _check_number(given[name], name, where)
    _check_strength(given.get("strength"), where)
    if "metric" in given:
        _check_metric(given, where)


def _check_type(types: str, value: Any, where: str) -> None:
    """Refuses values of other types, and parts, which `check_type` lets pass."""
    if isinstance(value, Mapping | ConfigDict):
        raise UserError(f"{where}={dict(value)!r}: a text or a number is needed.")
    check_type(types, value, where)


def _check_against(against: Any, where: str) -> None:
    if against is not None and against not in tuple(AGAINST):
        raise UserError(f"{where}: against={against!r}: one of {', '.join(AGAINST)} is needed.")


def _check_number(number: Any, name: str, where: str) -> None:
    _check_type("float", number, f"{where}: {name}")
    needed, is_so = _NEEDED.get(name, ("", None))
    if is_so is not None and not is_so(number):
        raise UserError(f"{where}: {name}={number}: {needed} is needed.")


def _check_strength(strength: Any, where: str) -> None:
    """Refuses a value that is neither a strength nor a dict of contestant -> strength."""
    by_label: dict[str, Any] = (
        dict(strength) if isinstance(strength, Mapping | ConfigDict) else {"": strength}
    )
    for label, number in by_label.items():
        place = f"{where}: strength" + (f" of {label!r}" if label else "")
        _check_type("float" if label else "float | None", number, place)
        if number is not None and number < 0:
            raise UserError(f"{place}={number}: 0 or more is needed.")


def _check_metric(claim: Mapping[str, Any], where: str) -> None:
    """Refuses rankings by a metric of unknown direction, and percentages where fractions are needed."""
    metric = claim["metric"]
    if claim["kind"] in _RANKING and lower_is_better(metric) is None:
        raise UserError(
            f"{where}: {claim['kind']!r} says which is better, and whether more or less of {metric!r} is, is "
            "not known; use 'lower_bound', which says how much larger a is than b."
        )
    if not is_share(metric):
        return
    for name in ("value", "a", "b", "bound", "d", "margin", "floor", "std"):
        number = claim.get(name)
        least = -1 if name == "bound" else 0
        if isinstance(number, int | float) and not least <= number <= 1:
            raise UserError(
                f"{where}: {name}={number}: {metric} is a fraction; a number from {least} to 1 is needed."
            )
