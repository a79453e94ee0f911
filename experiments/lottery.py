"""Lottery tickets: iterative pruning with rewinding, with control trainings and the paper's claims.

For each seed, one ticket is trained through all its levels by `jaxprune.lottery_ticket`. Level 0 is the dense
network, which is the baseline. Each level after it prunes, rewinds and trains again. From the masks of each
of these levels, the controls that `config.lottery.controls` names are trained too:

  reinit    the ticket's masks, on freshly drawn weights
  shuffled  the ticket's initial weights, under its masks shuffled within each layer

A run that was stopped continues when the same command is given again.

Examples:
  python -m experiments.lottery --config=configs/lottery/quickstart.py
  python -m experiments.lottery --config=configs/lottery/lenet300_mnist.py --config.seeds="(0,)"
"""

from typing import TYPE_CHECKING

from experiments import cli
from experiments.studies.lottery import STUDY

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(cfg: "ConfigDict", options: cli.Options) -> None:
    """Trains the tickets of a config and their controls, and writes the report.

    Args:
      cfg: a valid config.
      options: options of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
