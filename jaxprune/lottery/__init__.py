"""Lottery tickets: the plan of a ticket, which `jaxprune.lottery_ticket` follows."""

from jaxprune.transforms.lottery_ticket import LotteryState as LotteryState
from jaxprune.transforms.lottery_ticket import Plan as Plan

__all__ = ["LotteryState", "Plan"]
