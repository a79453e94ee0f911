"""Training, dense or sparse: one model on one data set, over seeds or folds.

One of `config.method`, `.gate`, `.penalty` and `.subgradient` makes the model sparse; with none of them it
stays dense. The test set is read once, at the end. The same command again goes on where it was stopped, and
prints the report of a run that is finished.

Examples:
  python -m experiments.train --config=configs/zhu2017/lenet300_mnist_s95.py
  python -m experiments.train --config=configs/zhu2017/lenet300_mnist_s95.py --config.method.sparsity=0.98
"""

from typing import TYPE_CHECKING

from experiments import cli
from experiments.studies.train import STUDY

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(cfg: "ConfigDict", options: cli.Options) -> None:
    """Trains the model of a config over its seeds or folds, and writes the report.

    Args:
      cfg: a valid config.
      options: of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
