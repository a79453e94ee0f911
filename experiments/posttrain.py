"""Pruning of a trained language model: the loss of perplexity by several ways, with and without recovery.

First the perplexity of the dense model is measured. Then each row of the config prunes the dense model,
segment by segment, once for each seed. A seed draws the calibration windows; the test windows are the same
for all seeds. A window is a sequence of tokens. Fields of `config.posttrain`:

  model          a name of jaxprune.models, a .gguf file, a folder of safetensors, or path/to/file.py:function
  rows           label -> dict(solver=..., pattern=..., rates=..., recover=..., propagate=...)
  calibration    number of windows from which statistics are computed
  batch          number of windows that are processed at a time
  validation     number of windows on which the errors of layers are measured
  test           number of windows on which perplexity is measured
  length         tokens per window

The report has a table of perplexities, the error of each kernel on held-out tokens, and plots. A run that was
stopped, even within a row, continues when the same command is given again.

A function of your own takes no arguments and returns (apply, params, windows). `apply(params, tokens)` gives
logits. `windows` is a dict of token arrays [count, length] with the keys "calibration", "validation" and
"test".

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
    """Prunes a language model by each row of a config, and writes the report.

    Args:
      cfg: a valid config.
      options: options of the command line.
    """
    cli.start(STUDY, cfg, options)


if __name__ == "__main__":
    cli.run(main, __doc__)
