"""Updates: how old masks become new ones.

Each is a function `(alive, units, grow_scores, keep, step) -> alive` of lists with one element per prunable
leaf, so that one search serves all leaves. Units off the mask do not compete (`Units.among`), unless the
update has `ranks_dead_units`.
"""

from jaxprune.updates.fractions import cosine as cosine
from jaxprune.updates.redistribution import by_signal as by_signal
from jaxprune.updates.redistribution import by_survivors as by_survivors
from jaxprune.updates.redistribution import redistribute as redistribute
from jaxprune.updates.selecting import best_units as best_units
from jaxprune.updates.within_layers import prune as prune
from jaxprune.updates.within_layers import regrow as regrow
from jaxprune.updates.within_layers import reselect as reselect
from jaxprune.updates.within_layers import splice as splice

__all__ = [
    "by_signal",
    "by_survivors",
    "cosine",
    "prune",
    "redistribute",
    "regrow",
    "reselect",
    "splice",
]


def __dir__() -> list[str]:
    return sorted(__all__)
