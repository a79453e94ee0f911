"""What curvature tells: a trained LeNet-300-100 (MNIST) pruned at once, without training again, 50 to 95 %.

No paper's table. Order to be expected from the papers: WoodFisher with its update of the kept weights (Singh
& Alistarh 2020) above WoodFisher's order alone, above the diagonals (Fisher, Gauss-Newton), above magnitude.
One global budget for all; signals from 1,000 training examples, for WoodFisher 8,000 at a damping of 1e-5 as
in its released code; 5 seeds. WoodFisher adds the moves of single weights, as that code does; beside it the
joint move of all weights that go; second_order_rounds.py prunes in eight rounds. OBD has Gauss-Newton's
diagonal, never negative, as in LeCun, Denker & Solla 1990; beside it that of the Hessian itself, for which
weights of negative curvature go first. Layer-wise OBS (Dong, Chen & Pan 2017) measures errors of layers, not
of the loss, so it keeps the same share in each layer.

Ours (5 seeds, dense 97.97 %), of a run of eight of these at 50, 90 and 95 %: at 90 and 95 % WoodFisher has
93.65 and 78.54, its order alone 92.91 and 77.36, the joint move 92.28 and 73.85, magnitude 89.00 and 62.72,
OBD 82.74 and 62.04, Fisher 69.99 and 48.61, OBD of the Hessian 66.79 and 47.05; at 50 % OBD has 97.86, that
of the Hessian 79.31, magnitude 97.89. The sum of single moves is better than the joint move (+4.69 pp at 95
%, bound +1.14), and better than no move at 90 % (+0.74 pp, bound +0.24), which is open at 95 % (+1.18, bound
-0.87). results/compare_second_order.json is older: its "WoodFisher", in rounds too, makes the joint move, and
its "Hessian diagonal (OBD)" is the Hessian's.

Run: python -m experiments.compare --config=configs/compare/second_order.py
"""

from experiments.config import config, part

WOODFISHER = {
    "criterion": "woodfisher",
    "examples": 8_000,
    "signals": {"inverse_fisher": part("inverse_fisher", block=50, damp=1e-5)},
}


def at_95(name, better, worse):
    """The claim that one criterion leaves a better network than another at 95 %."""
    return {
        "name": f"{name} at 95 %",
        "kind": "lower_bound",
        "a": better,
        "b": worse,
        "bound": 0.0,
        "sparsity": 0.95,
    }


def one_cut(criteria, sparsities, accept):
    """A trained LeNet-300-100, pruned by each criterion and not trained again."""
    return config(
        data=part("mnist", batch_size=100),
        model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1e-3),
        steps=4_000,
        seeds=(0, 1, 2, 3, 4),
        eval_every=1_000,
        log_every=500,
        save_every=4_000,
        compare={
            "sparsities": sparsities,
            "criteria": criteria,
            "pipeline": {
                "when": "trained",
                "examples": 1_000,
                "allocation": part("global_budget"),
            },
        },
        paper={
            "citation": "Singh & Alistarh 2020; Dong, Chen & Pan 2017; LeCun, Denker & Solla 1990",
            "against": "order",
            "departures": "LeNet-300-100 after 4,000 updates of Adam",
            "accept": accept,
        },
    )


def get_config():
    layers = {"allocation": part("uniform")}
    criteria = {
        "magnitude": "magnitude",
        "magnitude, each layer": {"criterion": "magnitude", **layers},
        "gradient times weight": "taylor",
        "Fisher": "fisher",
        "OBD": "obd",
        "OBD, Hessian": {
            "criterion": "obd",
            "signals": {"gauss_newton_diagonal": part("hessian_diagonal")},
        },
        "WoodFisher, order alone": WOODFISHER,
        "WoodFisher": {**WOODFISHER, "compensation": part("woodfisher")},
        "WoodFisher, joint move": {**WOODFISHER, "compensation": part("fisher_blocks")},
        "layer-wise OBS": {"criterion": "obs", "compensation": part("layerwise"), **layers},
    }
    accept = [
        at_95("WoodFisher beats magnitude", "WoodFisher", "magnitude"),
        at_95("its update helps", "WoodFisher", "WoodFisher, order alone"),
        at_95("single moves beat the joint move", "WoodFisher", "WoodFisher, joint move"),
        at_95(
            "layer-wise OBS beats magnitude in each layer",
            "layer-wise OBS",
            "magnitude, each layer",
        ),
    ]
    return one_cut(criteria, (0.5, 0.75, 0.9, 0.95), accept)
