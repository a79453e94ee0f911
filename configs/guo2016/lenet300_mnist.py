"""Dynamic network surgery: LeNet-300-100 on MNIST, weights are cut and spliced back during training.

Paper: Guo, Yao & Chen, "Dynamic Network Surgery for Efficient DNNs" (2016), table 1: 56x fewer weights at an
error of 1.99 % (dense 2.28 %).
Protocol: mean and std are those of the magnitudes in a layer. A weight is cut if its magnitude is below 0.9
(mean + c std), and spliced back if it is above 1.1 (mean + c std). Cut weights receive gradients too.
Departures: no separate pre-training: the first 2,000 of 12,000 updates are dense. Masks change every 10
updates until update 8,000; in the paper they change at random updates, more and more rarely. Adam. c (3.2,
and 1.0 in the output layer) was chosen by the compression and validation loss of one other seed.

Ours (5 seeds): 46.7 ± 0.7 times fewer parameters (98.0 % of the weights removed), error 2.25 ± 0.11 %.

Run: python -m experiments.train --config=configs/guo2016/lenet300_mnist.py
"""

from experiments.config import config, part


def get_config():
    when = {"begin": 2_000, "end": 8_000, "every": 10}
    return config(
        data=part("mnist", batch_size=100),
        model=part("lenet_300_100"),
        optimizer=part(
            "adam",
            learning_rate=part(
                "piecewise_constant_schedule",
                init_value=1e-3,
                boundaries_and_scales={8_000: 0.1},
            ),
        ),
        method=part(
            "partition",
            methods={
                "fc[12]": part("surgery", c=3.2, **when),
                "fc3": part("surgery", c=1.0, **when),
            },
        ),
        steps=12_000,
        seeds=(0, 1, 2, 3, 4),
        eval_every=1_000,
        log_every=1_000,
        save_every=6_000,
        paper={
            "citation": "Guo, Yao & Chen 2016",
            "table": "table 1",
            "against": "shortened",
            "departures": "12,000 updates without pre-training, masks on a fixed grid, Adam",
            "accept": [
                {
                    "name": "test error",
                    "kind": "band",
                    "metric": "test_accuracy",
                    "value": 0.9801,
                    "published": "1.99 %",
                },
                {
                    "name": "56x fewer weights",
                    "kind": "at_least",
                    "metric": "compression",
                    "value": 56,
                    "published": "56x",
                },
                {
                    "name": "test error at most 2.3 %",
                    "kind": "at_least",
                    "metric": "test_accuracy",
                    "value": 0.977,
                    "published": "1.99 %, dense 2.28 %",
                },
                {
                    "name": "at least 20x fewer weights",
                    "kind": "at_least",
                    "metric": "compression",
                    "value": 20,
                    "published": "56x",
                },
            ],
        },
    )
