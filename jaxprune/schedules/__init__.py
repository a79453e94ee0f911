"""Schedules: when masks change, and how sparse they must be by then.

Steps count the updates from 0. A schedule is due on a grid that starts at `begin`, and at `end` whatever
the grid: the last change lands on the target. `constant` has no last change.
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
