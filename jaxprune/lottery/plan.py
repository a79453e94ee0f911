"""The plan of a lottery ticket: when it trains, prunes and rewinds, in updates."""

import dataclasses
from typing import Literal, get_args

from jaxprune import checks

__all__ = ["PLAN", "Plan"]


Rewind = Literal["weights", "learning_rate", "finetune"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """When a lottery ticket trains, prunes and rewinds.

    Level 0 trains the dense network for `round_steps` updates. Each of the `rounds` that follow prunes,
    rewinds to the state that level 0 had after `rewind_to` updates, and trains from there up to update
    `round_steps` of the level. Pruning takes one update of its own, and rewinding weights a second one (the
    weights are first set to zero, because only from zero an addition reaches every float exactly). The
    trained weights of a level are there after `level_end` updates.

    Attributes:
      round_steps: training updates from the start to the end of a level.
      rounds: how often the network is pruned; the levels are 0 to `rounds`.
      rewind_to: the rewinding point k, in updates. 0 is the initialisation.
      rewind: what is set back to the rewinding point. `"weights"`: weights, optimizer state and learning rate
        (Frankle & Carbin 2019; with k > 0 Frankle et al. 2020). `"learning_rate"`: the optimizer's counts and
        other single numbers, and with them its schedules; weights and moments are not set back (Renda et al.
        2020). `"finetune"`: nothing; training continues with the last values of the schedules.

    >>> plan = Plan(round_steps=50, rounds=4, rewind_to=5)
    >>> plan.total_updates, plan.level_end(1)
    (238, 97)
    """

    round_steps: int
    rounds: int
    rewind_to: int = 0
    rewind: Rewind = "weights"

    def __post_init__(self) -> None:
        """Refuses plans without meaning."""
        counts = ("round_steps", "rounds", "rewind_to")
        checks.check("Plan", **{name: (getattr(self, name), checks.INTEGER) for name in counts})
        if self.rewind not in get_args(Rewind):
            raise ValueError(f"Plan(rewind={self.rewind!r}): one of {get_args(Rewind)} is needed.")
        if not 0 <= self.rewind_to < self.round_steps:
            raise ValueError(
                f"Plan(rewind_to={self.rewind_to}, round_steps={self.round_steps}): the rewinding point "
                "must lie before the end of a round."
            )
        if self.rounds < 0:
            raise ValueError(f"Plan(rounds={self.rounds}): at least 0 is needed.")

    @property
    def pause(self) -> int:
        """Number of updates that prune and rewind between two levels."""
        return 2 if self.rewind == "weights" else 1

    @property
    def cycle(self) -> int:
        """Number of updates of each level after the first, with pruning and rewinding."""
        return self.pause + self.round_steps - self.rewind_to

    @property
    def total_updates(self) -> int:
        """Number of updates of the whole ticket, to the end of the last level."""
        return self.level_end(self.rounds)

    def level_start(self, level: int) -> int:
        """Number of updates done when `level` starts to train."""
        return 0 if level == 0 else self.level_end(level - 1) + self.pause

    def level_end(self, level: int) -> int:
        """Number of updates done when `level` has been trained."""
        return self.round_steps + level * self.cycle


PLAN = checks.Kind(
    "a lottery.Plan",
    lambda value: isinstance(value, Plan),
    lambda _: "such as lottery.Plan(round_steps=1_000, rounds=10)",
)
