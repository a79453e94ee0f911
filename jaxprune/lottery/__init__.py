"""Lottery tickets: the plan of a ticket, which `jaxprune.lottery_ticket` follows."""

from jaxprune.lottery.ticket import LotteryState as LotteryState
from jaxprune.lottery.ticket import Plan as Plan
from jaxprune.lottery.ticket import lottery_ticket as lottery_ticket

__all__ = ["LotteryState", "Plan", "lottery_ticket"]


def __dir__() -> list[str]:
    return sorted(__all__)
