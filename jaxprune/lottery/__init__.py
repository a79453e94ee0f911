"""Lottery tickets: `Plan`, which `jaxprune.lottery_ticket` follows, and functions for experiments on tickets.

`masks_like`, `reinitialize`, `reshuffle`, `constant`, `fill_pruned` and `frozen_pruned` change the masks, the
initial weights or the pruned weights of a ticket. `overlap` compares the masks of two tickets, and
`errors_along_line` shows whether two trainings of one ticket are linearly connected.
"""

from jaxprune.lottery.branches import constant as constant
from jaxprune.lottery.branches import fill_pruned as fill_pruned
from jaxprune.lottery.branches import frozen_pruned as frozen_pruned
from jaxprune.lottery.branches import reinitialize as reinitialize
from jaxprune.lottery.branches import reshuffle as reshuffle
from jaxprune.lottery.connectivity import Line as Line
from jaxprune.lottery.connectivity import errors_along_line as errors_along_line
from jaxprune.lottery.connectivity import instability as instability
from jaxprune.lottery.mask_criteria import CRITERIA as CRITERIA
from jaxprune.lottery.mask_criteria import Overlap as Overlap
from jaxprune.lottery.mask_criteria import masks_like as masks_like
from jaxprune.lottery.mask_criteria import overlap as overlap
from jaxprune.lottery.plan import Plan as Plan
from jaxprune.lottery.ticket import LotteryState as LotteryState
from jaxprune.lottery.ticket import lottery_ticket as lottery_ticket

__all__ = [
    "CRITERIA",
    "Line",
    "LotteryState",
    "Overlap",
    "Plan",
    "constant",
    "errors_along_line",
    "fill_pruned",
    "frozen_pruned",
    "instability",
    "lottery_ticket",
    "masks_like",
    "overlap",
    "reinitialize",
    "reshuffle",
]


def __dir__() -> list[str]:
    return sorted(__all__)
