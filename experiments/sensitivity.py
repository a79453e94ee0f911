"""Sensitivity: what each layer of a network can lose, and how sparse each should be.

A dense network is trained for each seed. Then each layer alone is pruned to each of several sparsities and
measured on the validation data; a knapsack over the rises of the loss finds the sparsity of every layer for
each target, and for a tolerance of accuracy. What was found is pruned at once and tested beside uniform, ERK
and global sparsity at the same cost. `config.sensitivity` says what is measured:

  criterion    a name of jaxprune.criteria, a part, or path/to/file.py:function
  sparsities   of each layer
  cost         "flops" or "weights": what the budget is counted in
  budget       targets: fractions of the cost that may be left
  tolerance    of validation accuracy

It ends with a heat map, a table as CSV, and the rates as `part("by_path", ...)` for other configs.

Examples:
  python -m experiments.sensitivity --config=configs/sensitivity/lenet5_mnist.py
  python -m experiments.sensitivity --config=configs/lottery/quickstart.py
"""

from typing import TYPE_CHECKING

from experiments import cli
from experiments.studies.sensitivity import STUDY

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(cfg: "ConfigDict", options: cli.Options) -> None:
    """Measures the sensitivity of each layer for each seed, and writes the report.

    Args:
      cfg: a valid config.
      options: of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
