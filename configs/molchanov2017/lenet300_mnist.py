"""Sparse variational dropout: LeNet-300-100 on MNIST.

Paper: Molchanov, Ashukha & Vetrov, "Variational Dropout Sparsifies Deep Neural Networks" (2017), table 1:
68x fewer weights at 1.92 % error, 98.9, 97.2 and 62.0 % of the layers' weights removed.
Protocol of the released code: weights start at N(0, 0.01^2), log sigma^2 at -10; Adam at 1e-3, constant for
100 epochs, then falling linearly to 0 at 200; batches of 100; the weight of the divergence grows between the
epochs 5 and 20; a weight is zero if log alpha >= 3, in training too. The network is trained from the start,
with noise in its activations (`jaxprune.gates.apply`).
Departures: none that is known. The test set is read once, after the last update.

Ours (3 seeds): error 1.81 ± 0.14 % with 90.4 ± 1.0 times fewer parameters, 99.05 % of the weights removed
(99.2, 98.4 and 81.2 % by layer). About 20 to 35 CPU-minutes a seed.

Run: python -m experiments.train --config=configs/molchanov2017/lenet300_mnist.py        200 epochs
     python -m experiments.train --config=configs/molchanov2017/lenet300_mnist.py:60     60, in scale
"""

from experiments.config import config, part

EXAMPLES, BATCH = 60_000, 100


def get_config(epochs="200"):
    epoch = int(epochs) * EXAMPLES // BATCH // 200  # a 200th of the training
    faithful = epochs == "200"
    error, times = (2.2, 50) if faithful else (2.3, 30)
    return config(
        data=part("mnist", batch_size=BATCH),
        model=part("lenet_300_100", kernel_init=part("normal", std=0.01)),
        optimizer=part(
            "adam",
            learning_rate=part(
                "linear_schedule",
                init_value=1e-3,
                end_value=0.0,
                transition_begin=100 * epoch,
                transition_steps=100 * epoch,
            ),
        ),
        gate=part(
            "variational_dropout",
            strength=part(
                "linear_schedule",
                init_value=0.0,
                end_value=1 / EXAMPLES,
                transition_begin=5 * epoch,
                transition_steps=15 * epoch,
            ),
        ),
        validation=0,
        steps=200 * epoch,
        seeds=(0, 1, 2),
        save_every=20_000,
        log_every=1_000,
        eval_every=1_000,
        paper={
            "citation": "Molchanov et al. 2017, table 1",
            "against": "shortened",
            "departures": "a wider margin of error and of compression",
            "accept": [
                {
                    "name": "test error",
                    "kind": "band",
                    "metric": "test_accuracy",
                    "value": 0.9808,
                    "against": "figure" if faithful else "shortened",
                    "published": "1.92 %",
                },
                {
                    "name": "68x fewer weights",
                    "kind": "at_least",
                    "metric": "compression",
                    "value": 68,
                    "against": "figure" if faithful else "shortened",
                    "published": "68x",
                },
                {
                    "name": f"test error at most {error} %",
                    "kind": "at_least",
                    "metric": "test_accuracy",
                    "value": 1 - error / 100,
                    "published": "1.92 %",
                },
                {
                    "name": f"at least {times}x fewer weights",
                    "kind": "at_least",
                    "metric": "compression",
                    "value": times,
                    "published": "68x",
                },
            ],
        },
    )
