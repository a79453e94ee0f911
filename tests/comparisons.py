"""A comparison of seconds: its config, and its run in this process."""

import json

from experiments import compare
from experiments.cli import Options, Stopper
from experiments.config import check_sizes, config, part, validate


def small(section, **fields):
    """A config of 20 updates whose one prunable kernel has 30,000 weights."""
    common = {
        "data": part("synthetic_mnist", batch_size=32),
        "model": part("lenet_300_100"),
        "optimizer": part("sgd", learning_rate=0.05),
        "prunable": "fc2/kernel",
        "validation": 0,
        "steps": 20,
        "log_every": 5,
        "save_every": 10,
        "seeds": (0, 1),
    }
    return config(**{**common, **fields, "compare": section})


def run(cfg, workdir, stopper=None, dry_run=False, main=compare.main):
    """The results of a run in a work folder of its own; `None` if there are none yet."""
    validate(cfg)
    check_sizes(cfg)
    main(cfg, Options("test", workdir, dry_run, stopper or Stopper()))
    found = [*workdir.glob("test-*/results.json")]
    return json.loads(found[0].read_text(encoding="utf-8")) if found else None
