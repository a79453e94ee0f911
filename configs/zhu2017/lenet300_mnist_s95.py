"""Gradual magnitude pruning (GMP) of LeNet-300-100 on MNIST to 95 %.

Paper: Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression"
(2017). The paper has no MNIST table, so the run is compared with a dense baseline of the same config
(`--config.method=None`).
Protocol: cubic schedule from update 1,000 to 8,000, every 100 updates.

Run: python -m experiments.train --config=configs/zhu2017/lenet300_mnist_s95.py
"""

from experiments.config import config, part


def get_config():
    return config(
        data=part("mnist", batch_size=128),
        model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1e-3),
        method=part("gmp", sparsity=0.95, begin=1_000, end=8_000, every=100),
        steps=10_000,
        seeds=(0, 1, 2),
        paper={"citation": "Zhu & Gupta 2017 (the method; no MNIST figure)"},
    )
