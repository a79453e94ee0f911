"""Magnitude pruning of LeNet-300-100 on MNIST to a twelfth: Han et al. 2015.

Paper: Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks"
(2015), table 1: error 1.64 % dense, 1.59 % with 12 times fewer weights; 8, 9 and 26 % of the three
layers are left.
Departures: gradual pruning (Zhu & Gupta 2017) during one training instead of rounds of training and
pruning, to the paper's fraction in each layer; Adam; no dropout; 5,000 examples held out. The contestant
`one shot` prunes once, after half of the updates.

Ours (5 seeds): error 1.94 +- 0.20 % dense, with 12.02 times fewer parameters 1.75 +- 0.04 % (GMP) and
1.85 +- 0.10 % (one shot): results/compare_han2015.

Run: python -m experiments.compare --config=configs/compare/han2015.py
"""

from experiments.config import config, part

# 92 % of the first layer go, 91 % of the second and 74 % of the last.
LAYERS = part("uniform", rates={"fc2": 0.91 / 0.92, "fc3": 0.74 / 0.92})


def get_config():
    at = {"sparsity": 0.92, "metric": "test_accuracy"}
    return config(
        data=part("mnist", batch_size=128),
        model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1e-3),
        steps=10_000,
        seeds=(0, 1, 2, 3, 4),
        save_every=5_000,
        compare={
            "sparsities": (0.92,),
            "methods": {
                "GMP": part("gmp", begin=2_500, end=6_000, every=100, allocation=LAYERS),
                "one shot": part("magnitude", at=5_000, allocation=LAYERS),
            },
        },
        paper={
            "citation": "Han et al. 2015, table 1",
            "against": "shortened",
            "departures": "gradual pruning in one training of 10,000 updates instead of rounds; Adam",
            "accept": [
                {
                    "name": "error with 12x fewer weights, by GMP",
                    **at,
                    "kind": "band",
                    "a": "GMP",
                    "value": 0.9841,
                    "published": "1.59 %",
                },
                {
                    "name": "GMP with 12x fewer weights loses 0.2 points at most",
                    "kind": "matches",
                    "a": "GMP",
                    "b": "dense",
                    "margin": 0.002,
                    "published": "error 1.64 % -> 1.59 %",
                    **at,
                },
            ],
        },
    )
