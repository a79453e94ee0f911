"""A comparison: methods or criteria at several sparsities, over paired seeds, beside the dense network.

For one seed all contestants start from the same initial weights and see the same batches in the same order.
`config.compare` says who takes part:

  methods     published methods (jaxprune.methods), the sparsity left out
  criteria    names of jaxprune.criteria, or path/to/file.py:function for your own, which all go through
              one common `pipeline`: when masks are made (in training, before it, on the trained network),
              schedule, pattern, allocation, rounds, compensation, ... (see experiments/ways/pipeline.py)
  gates, penalties, subgradients
              ways to sparsity of jaxprune.gates, .penalties and .subgradients, by a label of one's own
  quantised   the networks of a method with few values: Deep Compression
  controls    of masks, trained anew: "retrained", "shuffled", "row-shuffled", "reinit"
  sparsities  fractions removed, each of which every contestant is trained to
  strengths   label -> strengths of a gate or penalty, which finds a sparsity of its own
  trials      label -> settings, of which the best on validation examples is trained with all seeds
  trial_seed  seed of these trials

It ends with a table per sparsity, a plot of accuracy against compression, and the verdicts on the config's
claims. The same command again goes on where it was stopped. A training that diverges is reported as such.

Examples:
  python -m experiments.compare --config=configs/compare/mnist_mlp.py
  python -m experiments.compare --config=configs/compare/criteria.py --config.compare.sparsities="(0.9,0.98)"
  python -m experiments.compare --config=configs/compare/criteria.py \\
    --config.compare.criteria="('magnitude','my.py:relative_step')"
"""

from typing import TYPE_CHECKING

from experiments import cli
from experiments.studies.compare import STUDY

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(cfg: "ConfigDict", options: cli.Options) -> None:
    """Trains the contestants of a config over its seeds, and writes the report.

    Args:
      cfg: a valid config.
      options: of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
