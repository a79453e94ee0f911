"""Penalties, gates and gradual pruning on one trade-off curve: LeNet-300-100, MNIST.

This is not a table of a paper. Every way to a sparse network is trained at several strengths or sparsities,
with the same number of updates and the same optimizer, from the same weights. The sparsity of a gate or
penalty is learned, so the report has the sparsity that was reached. Gates have their own learning rate, ten
times that of the weights: otherwise they could not move far enough in 4,000 updates. The strengths were
chosen from the sparsities of a trial with one other seed, to span about 70 to 98 %. Accuracies were not used
for the choice.

Ours (CPU, about 40 minutes): dense 97.96 %. At a loss of at most half a point, the fewest weights are
left by soft movement (97.84 % with 33x fewer weights), the annealed sigmoids (97.74 % with 35x fewer) and
movement at 95 % (98.01 % with 19x fewer). At 98 %, movement has 97.35 %, and GMP 92.67 ± 5.57 %, because one
of its seeds almost fails. Hard concrete gates over weights and L1 lose about as much with 8x to 12x fewer
weights. The subgradient of L1 removes no weights.

Run: python -m experiments.compare --config=configs/compare/regularised.py
"""

from experiments.config import config, part

STEPS = 4_000


def get_config():
    units = part("channel", axis=-2)
    learned = {"end": 3_000, "begin": 500}
    return config(
        data=part("mnist", batch_size=128),
        model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1e-3),
        gate_optimizer=part("adam", learning_rate=1e-2),
        preconditioner=part("adam"),
        steps=STEPS,
        seeds=(0, 1, 2),
        eval_every=1_000,
        log_every=500,
        save_every=4_000,
        compare={
            "sparsities": (0.8, 0.95, 0.98),
            "methods": {"GMP": part("gmp", begin=500, end=2_500, every=100)},
            "gates": {
                "movement": part("movement", **learned),
                "hard concrete, weights": part("hard_concrete"),
                "hard concrete, units": part("hard_concrete", pattern=units),
                "variational dropout": part("variational_dropout"),
                "soft threshold": part("soft_threshold"),
                "soft movement": part("soft_movement", **learned),
                "continuous": part("continuous", end=3_500, begin=500),
            },
            "penalties": {
                "L1": part("l1"),
                "L0": part("l0"),
                "group lasso, units": part("group_l2", axis=-1),
            },
            "subgradients": {"L1, subgradient": part("l1")},
            "strengths": {
                "hard concrete, weights": (3e-6, 1e-5, 5e-5),
                "hard concrete, units": (1e-6, 3e-6, 1e-5),
                "variational dropout": (3e-6, 1e-5, 3e-5),
                "soft threshold": (1e-4, 5e-4, 2e-3),
                "soft movement": (1.0, 5.0, 20.0),
                "continuous": (1e-6, 3e-6, 1e-5),
                "L1": (1e-4, 3e-4, 1e-3),
                "L0": (1e-5, 1e-4, 5e-4),
                "group lasso, units": (3e-5, 1e-4, 3e-4),
                "L1, subgradient": (1e-4, 1e-3),
            },
        },
        paper={"citation": "none: a comparison of our own"},
    )
