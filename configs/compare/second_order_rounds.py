"""WoodFisher in eight rounds: a trained LeNet-300-100 (MNIST) pruned to 90 and 95 %, without training again.

Each round removes a part and finds the curvature of what is left anew (Singh & Alistarh 2020), from 1,600
mean gradients of 5 examples to save time; otherwise as second_order.py, whose single cut stands beside it.

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
