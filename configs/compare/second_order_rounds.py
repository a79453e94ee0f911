"""WoodFisher in eight rounds: a trained LeNet-300-100 (MNIST) pruned to 90 and 95 %, without retraining.

Each round removes a part of the weights, and computes the curvature of the remaining network anew (Singh &
Alistarh 2020). To save time, it comes from 1,600 gradients, each the mean over 5 examples. All else is as in
second_order.py. WoodFisher in a single cut is a contestant too.

Ours (5 seeds, dense 98.00 %): at 90 % eight rounds 96.79, one cut 94.43, rounds without the update of kept
weights 95.47, magnitude 88.74; at 95 % 93.43, 82.65, 89.44 and 64.00.

Cost: 38 CPU-minutes on an AMD EPYC.

Run: python -m experiments.compare --config=configs/compare/second_order_rounds.py
"""

from configs.compare.second_order import WOODFISHER, at_95, one_cut
from experiments.config import part


def get_config():
    rounds = {
        **WOODFISHER,
        "signals": {"inverse_fisher": part("inverse_fisher", block=50, damp=1e-5, examples=5)},
        "rounds": 8,
    }
    criteria = {
        "magnitude": "magnitude",
        "WoodFisher": {**WOODFISHER, "compensation": part("woodfisher")},
        "WoodFisher, 8 rounds": {**rounds, "compensation": part("woodfisher")},
        "WoodFisher, 8 rounds, order alone": rounds,
    }
    accept = [
        at_95("WoodFisher in rounds beats magnitude", "WoodFisher, 8 rounds", "magnitude"),
        at_95("rounds beat one cut", "WoodFisher, 8 rounds", "WoodFisher"),
        at_95(
            "its update helps in rounds",
            "WoodFisher, 8 rounds",
            "WoodFisher, 8 rounds, order alone",
        ),
    ]
    return one_cut(criteria, (0.9, 0.95), accept)
