"""Schedules: at which updates masks change, and which sparsity they must have then.

Steps count the updates from 0. With an interval `every`, masks change at `begin`, every `every` steps after
it, and always at `end`, so that the last change reaches the target. `constant` has no last change.
"""

from jaxprune.schedules.recurring import alternate as alternate
from jaxprune.schedules.recurring import constant as constant
from jaxprune.schedules.recurring import cyclical as cyclical
from jaxprune.schedules.recurring import every as every
from jaxprune.schedules.recurring import never as never
from jaxprune.schedules.rising import cubic as cubic
from jaxprune.schedules.rising import exponential as exponential
from jaxprune.schedules.rising import levels as levels
from jaxprune.schedules.rising import linear as linear
from jaxprune.schedules.rising import one_shot as one_shot
from jaxprune.schedules.rising import polynomial as polynomial

__all__ = [
    "alternate",
    "constant",
    "cubic",
    "cyclical",
    "every",
    "exponential",
    "levels",
    "linear",
    "never",
    "one_shot",
    "polynomial",
]


def __dir__() -> list[str]:
    return sorted(__all__)
