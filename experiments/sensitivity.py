"""Sensitivity: how much accuracy pruning each layer costs, and how sparse each layer should be.

A dense network is trained for each seed. Then each layer alone is pruned to each of several sparsities, and
the pruned network is measured on the validation data. From the rises of the loss, a knapsack search chooses a
sparsity for every layer: once for each budget, and once for a tolerated loss of accuracy. The trained network
is pruned at once to these sparsities and tested. Uniform, ERK and global sparsity at the same cost are tested
beside it. Fields of `config.sensitivity`:

  criterion    a name of jaxprune.criteria, a part, or path/to/file.py:function
  sparsities   fractions removed from the one layer that is pruned
  cost         "flops" or "weights": the unit of the budget
  budget       fractions of the cost that may be left; one search for each
  tolerance    loss of validation accuracy that is tolerated, a fraction (0.01 is one percentage point)

The report has a heat map, a table as CSV, and the sparsities found as `part("by_path", ...)` for other
configs.

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
      options: options of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
