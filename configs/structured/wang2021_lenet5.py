"""GReg on LeNet-5 (MNIST): filters decay before they are removed, in a tenth of the released length.

Paper: Wang, Qin, Zhang & Fu, "Neural Pruning via Growing Regularization" (2021): the network is more accurate
if the decay of the filters grows until they are removed than if they are cut at once by the same norms
(ResNets on CIFAR and ImageNet; no figure for MNIST).
Protocol of the released code, shortened by ten. There the strength of an L2 penalty grows to 1 in 50,000
updates, at a learning rate of 0.001 and a momentum of 0.9; each update then removes up to a hundredth of a
weight. Here this part grows to a tenth in 5,000 updates. After 1,500 more updates the filters are removed,
and 9 epochs of fine-tuning follow. The other arm loses its filters at once and is fine-tuned for as many
updates as all of these together.
Departures: the network, the data and the length; decay grows in each update instead of every fifth to tenth;
three quarters of each layer's filters.

Cost, estimated: 2 arms x 5 seeds x 11,450 updates x 60 ms, two CPU-hours. Not run yet.

Run: python -m experiments.structured --config=configs/structured/wang2021_lenet5.py
"""

import runpy
from pathlib import Path

from experiments.config import part

GROWTH, SETTLED, FINETUNE = 5_000, 6_500, 4_950  # updates; 9 epochs


def get_config():
    lenet = runpy.run_path(str(Path(__file__).with_name("lenet5_mnist.py")))
    cfg = lenet["get_config"]()
    outputs = lenet["units"](over="outputs")
    growth = part("linear_schedule", init_value=0.0, end_value=0.1, transition_steps=GROWTH)
    fading = part("growing", decay=growth, until=SETTLED)
    with cfg.unlocked():
        cfg.compare = {
            "sparsities": (0.75,),
            "criteria": {
                "L1 of filters": {"criterion": "magnitude", **outputs},
                "GReg": {"criterion": "magnitude", "removal": fading, **outputs},
            },
            "pipeline": {"when": "trained", "finetune": SETTLED + FINETUNE},
        }
        cfg.paper = {
            "citation": "Wang et al. 2021 (the order; no MNIST figure)",
            "against": "order",
            "departures": "LeNet-5 on MNIST; a tenth of the updates",
            "accept": [
                {
                    "name": "filters that fade first (GReg) leave more than those that go at once",
                    "kind": "lower_bound",
                    "a": "GReg",
                    "b": "L1 of filters",
                    "bound": 0.0,
                    "sparsity": 0.75,
                },
            ],
        }
    return cfg
