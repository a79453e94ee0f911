"""A lottery ticket in a few minutes: LeNet-300-100 on MNIST, 6 levels of 1,000 updates, two seeds.

Paper and protocol: `lenet300_mnist.py`; departures: 2 % of the updates, 6 levels, 35 % instead of 20 %
removed per round, one reinitialisation and one shuffled mask per ticket, two seeds. It shows the steps of the
experiment and its report. For the paper's claims, run `smoke.py` or `lenet300_mnist.py`.

Run: python -m experiments.lottery --config=configs/lottery/quickstart.py
"""

import runpy
from pathlib import Path

REMAINING = 0.65**4  # of the weights, after four of five rounds


def get_config():
    faithful = runpy.run_path(str(Path(__file__).with_name("lenet300_mnist.py")))
    cfg = faithful["get_config"]()
    cfg.steps, cfg.seeds, cfg.save_every = 1_000, (0, 1), 500
    cfg.method.sparsity = 0.35
    cfg.lottery.update(rounds=5, controls=("reinit", "shuffled"), repeats=1)
    cfg.paper.departures = (
        "1,000 updates a level instead of 50,000, 6 levels, 35 % removed in each round, two seeds"
    )
    cfg.paper.accept = [
        _claim("ticket is not below dense", "dense", -0.001),
        _claim("ticket beats its reinitialisation", "reinit", 0.002),
        _claim("ticket beats its shuffled masks", "shuffled", 0.002),
    ]
    return cfg


def _claim(name, other, bound):
    return {
        "name": f"{name} at {100 * REMAINING:.1f} %",
        "kind": "lower_bound",
        "a": "ticket",
        "b": other,
        "remaining": REMAINING,
        "metric": "test_final",
        "bound": bound,
    }
