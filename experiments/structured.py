"""Structured pruning: train, remove whole units, fine-tune, shrink, measure.

A comparison (see experiments.compare) of criteria or methods whose pattern is `coupled`: filters, neurons or
heads that are found in the model's program and go wherever they run through its parameters. What is left is
made physically smaller, and the small network is tested and timed beside the whole one.

  pattern    part("coupled", only="conv", exclude="fc", reduce="sum", normalize="none", over="all"), for all
             criteria in config.compare.pipeline, or in a method; without one, all groups are pruned
  criteria   names of jaxprune.criteria, or path/to/file.py:function for your own
  sparsities fractions of the units that go

Examples:
  python -m experiments.structured --config=configs/structured/lenet5_mnist.py
  python -m experiments.structured --config=configs/structured/lenet5_mnist.py --dry_run
  python -m experiments.structured --config=configs/structured/lenet5_mnist.py \\
    --config.compare.sparsities="(0.25,0.75)"
"""

from typing import TYPE_CHECKING

from experiments import cli
from experiments.config import UserError, part
from experiments.studies import contestants

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(cfg: "ConfigDict", options: cli.Options) -> None:
    _check(cfg)
    found = contestants.contestants(cfg)
    named = contestants.with_digests(cfg, found)
    if cli.is_finished(named, options, "comparison"):
        return
    from experiments.studies import compare_runs  # imports JAX

    compare_runs.run(named, found, options)


def _check(cfg: "ConfigDict") -> None:
    """Everybody's pattern is `coupled`; where a criterion has none, all groups are meant."""
    pipeline = cfg.compare.get("pipeline")
    if cfg.compare.get("criteria") and pipeline is not None and "pattern" not in pipeline:
        with pipeline.unlocked():
            pipeline.pattern = part("coupled")
    named = {"pipeline": pipeline or {}, **dict(cfg.compare.get("methods") or {})}
    for label, spec in named.items():
        pattern = spec.get("pattern")
        if (label != "pipeline" or pattern is not None) and (pattern or {}).get(
            "name"
        ) != "coupled":
            raise UserError(
                f"config.compare: {label} has the pattern {pattern and pattern.get('name')!r}; here whole "
                "units are removed: pattern=part('coupled'), or use experiments.compare."
            )


if __name__ == "__main__":
    cli.run(main, __doc__)
