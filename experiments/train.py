"""Training of one model on one data set, dense or sparse, for each seed or cross-validation fold.

One of `config.method`, `.gate`, `.penalty` and `.subgradient` makes the model sparse. With none of them it
stays dense. The test set is read once, at the end. A run that was stopped continues when the same command is
given again. For a finished run, the command prints the path of the report.

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
      options: options of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
