"""Structured pruning: train, remove whole units, fine-tune, shrink, measure.

A comparison (see experiments.compare) of criteria or methods with the pattern `coupled`. Its units are
filters, neurons or heads. They are found in the model's program, and each is removed from all parameters that
it runs through. The pruned network is then made physically smaller, and the small network is tested and timed
beside the dense one.

  pattern    part("coupled", only="conv", exclude="fc", reduce="sum", normalize="none", over="all"); in
             config.compare.pipeline for all criteria (left out: all groups are pruned), and in each method
  criteria   names of jaxprune.criteria, or path/to/file.py:function for your own
  sparsities fractions of the units that are removed

Examples:
  python -m experiments.structured --config=configs/structured/lenet5_mnist.py
  python -m experiments.structured --config=configs/structured/lenet5_mnist.py --dry_run
  python -m experiments.structured --config=configs/structured/lenet5_mnist.py \\
    --config.compare.sparsities="(0.25,0.75)"
"""

from typing import TYPE_CHECKING

from experiments import cli
from experiments.studies.structured import STUDY

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(cfg: "ConfigDict", options: cli.Options) -> None:
    """Trains, prunes and shrinks the contestants of a config, and writes the report.

    Args:
      cfg: a valid config.
      options: options of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
