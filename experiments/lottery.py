"""Lottery tickets: iterative pruning with rewinding, its controls, and what the paper claims of them.

Each seed trains a ticket through all its levels (one run of `jaxprune.lottery_ticket`), and at each level the
controls that the config names, from the ticket's masks:

  reinit    the ticket's masks on freshly drawn weights
  shuffled  the ticket's initial weights under its masks shuffled within each layer

The dense baseline is the ticket's level 0. The same command again goes on where it was stopped.

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
      options: of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
