"""Branches of lottery tickets: which part of a ticket makes it accurate, and is its training stable?

First the tickets of `config.lottery` are trained, in the same run folder as by `experiments.lottery`. A
finished run of them in the work folder is used again. A branch is a training that starts from a level of a
ticket and changes its masks, weights or targets. Fields of `config.branches`:

  tickets    label -> fields that a ticket replaces: rewind, rewind_to, criterion; {}: one ticket, as
             config.lottery says
  levels     indices of the levels from which branches start; 0 is the dense network
  branches   label -> masks (of the ticket, shuffled, or by a criterion), kept (first values of the remaining
             weights), pruned (values of the pruned weights), targets (labels or the dense network's outputs)
  copies     trainings of each branch, each with another order of the examples
  alphas     points on the straight line between the weights of two copies, at which the error is measured

The report has a row per branch, the claims with their verdicts, the instability (rise of the error between
copies), and the similarity of the tickets of different seeds. A run that was stopped continues when the same
command is given again.

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
      options: options of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
