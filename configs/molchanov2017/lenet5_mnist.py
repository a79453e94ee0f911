"""Sparse variational dropout: Caffe's LeNet-5 on MNIST.

Paper: Molchanov, Ashukha & Vetrov, "Variational Dropout Sparsifies Deep Neural Networks" (2017), table 1:
280x fewer weights at 0.75 % error, 67, 98, 99.8 and 95 % of the layers' weights removed.
Protocol of the released code: as in lenet300_mnist.py, but Adam's rate falls linearly to 0 from 1e-3 over all
200 epochs.
Departures: none that is known. The test set is read once, after the last update.

Cost, estimated: 120,000 updates x 53 ms, 1.8 CPU-hours a seed. Not run yet.

Run: python -m experiments.train --config=configs/molchanov2017/lenet5_mnist.py        200 epochs
     python -m experiments.train --config=configs/molchanov2017/lenet5_mnist.py:40     40, in scale
"""

import runpy
from pathlib import Path

from experiments.config import part


def get_config(epochs="200"):
    smaller = runpy.run_path(str(Path(__file__).with_name("lenet300_mnist.py")))
    cfg = smaller["get_config"](epochs)
    against = "figure" if epochs == "200" else "shortened"
    with cfg.unlocked():
        cfg.model = part("lenet5_caffe", kernel_init=part("normal", std=0.01))
        cfg.optimizer.learning_rate = part(
            "linear_schedule", init_value=1e-3, end_value=0.0, transition_steps=cfg.steps
        )
        cfg.paper.departures = "none in the protocol" if epochs == "200" else f"{epochs} epochs"
        cfg.paper.accept = (
            {
                "name": "test error",
                "kind": "band",
                "metric": "test_accuracy",
                "value": 0.9925,
                "against": against,
                "published": "0.75 %",
            },
            {
                "name": "280x fewer weights",
                "kind": "at_least",
                "metric": "compression",
                "value": 280,
                "against": against,
                "published": "280x",
            },
        )
    return cfg
