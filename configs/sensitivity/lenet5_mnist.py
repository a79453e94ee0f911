"""Sensitivity of the layers of LeNet-5 (Caffe's) on MNIST, and a search for the sparsity of each layer.

This is not a table of a paper; Li et al. 2017 (figure 2) and Han et al. 2015 (figure 6) draw such curves. The
claims: pruned at once to the same number of operations, the searched sparsities beat uniform and ERK
sparsities.

Ours (5 seeds, dense 98.92 %; 30, 20 and 10 % of the operations left, nothing trained after pruning): searched
98.65, 96.91 and 76.76 %, ERK 98.45, 92.67 and 63.57 %, uniform 97.21, 91.20 and 36.68 %. All claims hold. One
global threshold is as good as the search at 20 % (96.95 %). About 30 CPU-minutes.

Run: python -m experiments.sensitivity --config=configs/sensitivity/lenet5_mnist.py
"""

from experiments.config import config, part


def get_config():
    def beats(rival, budget):
        return {
            "name": f"searched beats {rival} at {100 * budget:g} % of the operations",
            "kind": "lower_bound",
            "a": "searched",
            "b": rival,
            "bound": 0.0,
            "metric": "test_accuracy",
            "sparsity": 1 - budget,
        }

    return config(
        data=part("mnist", batch_size=100),
        model=part("lenet5_caffe"),
        optimizer=part("adam", learning_rate=1e-3),
        steps=1_500,
        seeds=(0, 1, 2, 3, 4),
        eval_every=500,
        log_every=250,
        save_every=1_500,
        sensitivity={"budget": (0.3, 0.2, 0.1)},
        paper={
            "citation": "none: an analysis of our own",
            "accept": [
                beats(rival, budget) for budget in (0.2, 0.1) for rival in ("uniform", "ERK")
            ],
        },
    )
