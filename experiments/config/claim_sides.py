"""What claims are about: whether the labels and points that they name are those that a study will run."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.config.metrics import LOWER_IS_BETTER
from experiments.config.paper import check_claim, labelled_claims
from experiments.config.parts import UserError, unknown

__all__ = ["Side", "check_claims", "nearest"]

_NEAR = 1.15  # weights left that differ by more than this factor are not those that are meant
_PLACES = ("sparsity", "strength", "remaining")


class Side(NamedTuple):
    """What a claim can compare, and at which points there are values of it.

    Attributes:
      place: the field by which a claim names a point, one of `_PLACES`; "": there is but one.
      points: their values there.
      is_exact: False: there may be fewer points, none of which is lower than the lowest of these.
    """

    place: str = ""
    points: tuple[float, ...] = ()
    is_exact: bool = True


def nearest(fractions_left: Sequence[float], asked: float) -> int | None:
    """Returns the index of the fraction of weights left that is meant by another; `None` if none is near.

    >>> nearest([0.5, 0.1], 0.105), nearest([0.5, 0.1], 0.3)
    (1, None)
    """
    distances = [abs(math.log(left / asked)) if left else math.inf for left in fractions_left]
    index = min(range(len(distances)), key=distances.__getitem__, default=None)
    return None if index is None or distances[index] > math.log(_NEAR) else index


def check_claims(paper: Any, sides: Mapping[str, Side], metric: str | None = None) -> None:
    """Refuses claims that nothing can decide, and says how many this run will leave open.

    These are about labels and points that the study will not run: a config's claims stay where a command line
    asks for less, or another binary runs it.

    Args:
      paper: the field of a config, in itself valid (`experiments.config.paper.check_paper`).
      sides: what claims can compare, by label; none: the study has one method, which they do not name.
      metric: of a claim that names none; `None`: each must.

    Raises:
      UserError: which claim, and what is wrong with it.
    """
    left_open: list[str] = []
    claims = list(labelled_claims(paper))
    for claim, where in claims:
        given = {name: value for name, value in claim.items() if value is not None}
        if metric is not None:
            given.setdefault("metric", metric)
        if "metric" not in given:
            raise UserError(f"{where}: which number is meant? Add metric, such as 'test_accuracy'.")
        if given["metric"] not in LOWER_IS_BETTER:
            raise UserError(
                unknown(f"{where}: no metric", given["metric"], LOWER_IS_BETTER, "Known")
            )
        check_claim(given, where)
        try:
            _check_places(given, sides, where)
            _check_sides(given, sides, where)
        except UserError as error:
            left_open.append(str(error))
    if left_open:
        count = f"{len(left_open)} of {len(claims)}"
        print(f"Claims that this run leaves open: {count}; {left_open[0]}", file=sys.stderr)


def _check_places(claim: Mapping[str, Any], sides: Mapping[str, Side], where: str) -> None:
    """Refuses fields that mean something to other studies."""
    places = {side.place for side in sides.values()}
    for name in _PLACES:
        if name in claim and name not in places:
            raise UserError(f"{where}: {name} means nothing in this study; leave it out.")
    if claim["kind"] == "smallest_level" and "remaining" not in places:
        raise UserError(
            f"{where}: 'smallest_level' is about the levels of a ticket, and here are none; use another "
            "kind, such as 'at_least'."
        )


def _check_sides(claim: Mapping[str, Any], sides: Mapping[str, Side], where: str) -> None:
    if not sides:
        if "a" in claim or isinstance(claim.get("b"), str):
            raise UserError(
                f"{where}: a training has one method, so that there is nothing to compare; leave a out, and "
                "let b be a number."
            )
        return
    if "a" not in claim:
        raise UserError(f"{where}: a is missing; name one of {', '.join(sides)}.")
    for name in ("a", "b"):
        label = claim.get(name)
        if not isinstance(label, str):
            continue
        if label not in sides:
            says = f"{where}: {name}: nobody is called"
            raise UserError(unknown(says, label, sides, "Known"))
        if sides[label].place:
            _check_point(claim, label, sides[label], where)


def _check_point(claim: Mapping[str, Any], label: str, side: Side, where: str) -> None:
    """Refuses a point that a label is not run at."""
    if claim["kind"] == "smallest_level":  # of all levels
        return
    asked: Any = claim.get(side.place)
    if isinstance(asked, Mapping | ConfigDict):  # strengths by contestant
        asked = dict(asked).get(label)
    if asked is None:
        raise UserError(f"{where}: {side.place} is missing, at which {label!r} is meant.")
    if side.place == "strength":
        is_there = asked in side.points
    elif side.place == "sparsity":
        is_there = nearest([1 - point for point in side.points], 1 - asked) is not None
    elif side.is_exact:
        is_there = nearest(side.points, asked) is not None
    else:
        is_there = not side.points or asked * _NEAR >= min(side.points)
    if not is_there:
        points = ", ".join(f"{point:.4g}" for point in side.points)
        raise UserError(
            f"{where}: {side.place}={asked:g}: {label!r} is run at {side.place} {points}; name one of these."
        )
