"""Branches of lottery tickets: what of a ticket makes it win, and whether its trainings end in one place.

The tickets of `config.lottery` are trained first, in the run folder that `experiments.lottery` gives them,
unless a finished one is in the work folder already. From the levels that they leave, `config.branches` says
what is trained:

  tickets    label -> what is different: rewind, rewind_to, criterion ("": one ticket, as config.lottery says)
  levels     from which to branch; 0 is the dense network
  branches   label -> masks (the ticket's, shuffled, of a criterion), kept (what the remaining weights begin
             with) and pruned (what the others are)
  copies     of each branch, each with the examples in another order; the error on the straight line between
             two is measured at `alphas` points

The report has a row per branch, claims and verdicts, instabilities, and how alike the tickets of different
seeds are. The same command again goes on where it was stopped.

Examples:
  python -m experiments.branches --config=configs/lottery/branches_smoke.py
  python -m experiments.branches --config=configs/lottery/renda2020_lenet300.py
"""

from typing import TYPE_CHECKING

from experiments import cli
from experiments.studies.branches import STUDY

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(cfg: "ConfigDict", options: cli.Options) -> None:
    """Trains the tickets of a config and their branches, and writes the report.

    Args:
      cfg: a valid config.
      options: of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
