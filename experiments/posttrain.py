"""Pruning after training: what a language model loses by each of several ways, and what recovery gives back.

A model is loaded from its package's files (`jaxprune.models`) or a function of yours, and its perplexity is
measured first. Each row of the config then prunes it, segment by segment, for each seed, which draws the
calibration windows; the test windows are the same for all. `config.posttrain` says what is done:

  model          a name of jaxprune.models, a .gguf file, a folder of safetensors, or path/to/file.py:function
  rows           label -> dict(solver=..., pattern=..., rates=..., recover=..., propagate=...)
  calibration    windows that statistics are gathered on; batch: how many at a time
  validation     windows that layer errors are measured on; test: windows that perplexity is measured on
  length         tokens of a window

It ends with a table, the errors of each kernel on held-out tokens, and plots. The same command again goes on
where it stopped, within a row too.

A function of yours takes nothing and returns (apply, params, windows): `apply(params, tokens)` gives logits,
and `windows` holds arrays of tokens [count, length] under "calibration", "validation" and "test".

Examples:
  python -m experiments.data fetch smollm2-135m wikipedia
  python -m experiments.posttrain --config=configs/posttrain/smollm2_quick.py
  python -m experiments.posttrain --config=configs/posttrain/smollm2.py
"""

from typing import TYPE_CHECKING

from experiments import cli
from experiments.studies.posttrain import STUDY

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(cfg: "ConfigDict", options: cli.Options) -> None:
    """Prunes a language model in the ways of a config, and writes the report.

    Args:
      cfg: a valid config.
      options: of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
