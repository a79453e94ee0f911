"""Four criteria in one pipeline: LeNet-300-100 on MNIST, 50 to 98 % of the weights removed.

This is not a table of a paper. It is the trade-off curve that Blalock, Gonzalez Ortiz, Frankle & Guttag,
"What is the State of Neural Network Pruning?" (2020) ask for. Random pruning is the lower reference, the
dense network the control. Pruning is gradual (cubic, from 15 to 60 % of 2,000 updates), with the same
fraction in each layer.

Ours (3 seeds), test accuracy: from 75 % on, the order is magnitude, taylor, gradient, random; at 90 % they
have 97.38 +- 0.12, 96.60 +- 0.02, 95.28 +- 0.08 and 93.63 +- 0.33 %, dense 97.92 +- 0.11 %. At 98 % no
criterion recovers in the updates that remain of 2,000 (results/compare_criteria).

Run: python -m experiments.compare --config=configs/compare/criteria.py
With a criterion of your own: --config.compare.criteria="('magnitude','my.py:relative_step')"
"""

from experiments.config import config, part


def get_config():
    return config(
        data=part("mnist", batch_size=128),
        model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1e-3),
        steps=2_000,
        seeds=(0, 1, 2),
        save_every=1_000,
        compare={
            "sparsities": (0.5, 0.75, 0.9, 0.95, 0.98),
            "criteria": ("magnitude", "random", "gradient", "taylor"),
            "pipeline": {"schedule": part("cubic", begin=300, end=1_200, every=100)},
        },
    )
