"""Branches of a lottery ticket in a minute, on synthetic data: a test that the study runs.

Every kind of branch is trained (masks, kept weights, pruned weights, targets), in two copies for the line
between them, from the dense network and from a ticket with 42 % of its weights. Synthetic digits are easy:
all branches learn them, so the accuracies mean nothing. For the papers' protocols see `zhou2019_lenet300.py`
and `frankle2020_lenet300.py`.

Run: python -m experiments.branches --config=configs/lottery/branches_smoke.py
"""

from experiments.config import config, part


def get_config():
    return config(
        data=part("synthetic_mnist", batch_size=60),
        model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1.2e-3),
        method=part(
            "magnitude", sparsity=0.35, allocation=part("uniform", rates={"fc3/kernel": 0.5})
        ),
        steps=60,
        seeds=(0, 1),
        validation=512,
        eval_every=30,
        save_every=60,
        lottery={"rounds": 2, "rewind_to": 10, "controls": ()},
        branches={
            "levels": (0, 2),
            "copies": 2,
            "alphas": 7,
            "branches": {
                "rewound": {},
                "shuffled": {"masks": "shuffled"},
                "movement": {"masks": "movement"},
                "reinit": {"kept": "reinit"},
                "constant": {"kept": "constant, same sign"},
                "frozen": {"pruned": "zero if towards zero"},
                "SNIP": {"masks": "SNIP"},
                "trained": {"kept": "trained"},
                "distilled": {"targets": "dense network"},
            },
        },
        paper={
            "accept": [
                {
                    "name": "the ticket's trainings end in one place",
                    "kind": "lower_bound",
                    "a": 0.02,
                    "b": "rewound",
                    "remaining": 0.424,
                    "metric": "instability",
                    "bound": 0.0,
                },
                {
                    "name": "the ticket is no worse than its shuffled masks",
                    "kind": "matches",
                    "a": "rewound",
                    "b": "shuffled",
                    "remaining": 0.424,
                    "metric": "test_final",
                },
            ],
        },
    )
