"""Comparison of methods or criteria with each other and the dense network, at several sparsities and seeds.

For one seed, all contestants start from the same initial weights and see the same batches in the same order.
Fields of `config.compare`:

  methods     label -> method of jaxprune.methods, without its sparsity
  criteria    names of jaxprune.criteria, or path/to/file.py:function for your own
  pipeline    settings that all criteria share: when masks are made (during training, before it, or on the
              trained network), schedule, pattern, allocation, rounds, compensation, ... (see
              experiments/ways/pipeline.py)
  gates       label -> gate of jaxprune.gates
  penalties, subgradients
              label -> penalty of jaxprune.penalties, trained by proximal steps or by its subgradient
  quantised   label -> settings of Deep Compression, applied to the networks of a method or criterion
  controls    trainings on the final masks of contestants: "retrained", "shuffled", "row-shuffled", "reinit"
  sparsities  fractions of the weights removed; each contestant is trained once for each
  strengths   label -> strengths of a gate or penalty, in place of sparsities; training then decides the
              sparsity
  trials      label -> settings to try; the one with the best validation accuracy is trained with all seeds
  trial_seed  seed of these trials

The report has a table per sparsity, a plot of accuracy against compression, and verdicts on the config's
claims. A training that diverges is reported as diverged. A run that was stopped continues when the same
command is given again.

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
      options: options of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
