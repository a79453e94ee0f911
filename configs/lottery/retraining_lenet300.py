"""Tickets retrained from trained weights, to the dense network's outputs, or on masks found before training.

Papers: Ma, Chen, Hu, You, Xie & Wang, "Good Students Play Big Lottery Better" (2021): subnetworks trained to
the outputs of the dense network instead of the labels are at least as good as subnetworks rewound to an early
update (ResNets on CIFAR-10 and ImageNet). Frankle, Dziugaite, Roy & Carbin, "Pruning Neural Networks at
Initialization: Why Are We Missing the Mark?" (2021): masks of SNIP, GraSP and SynFlow are worse than masks of
large trained weights.
Protocol: the tickets of `smoke.py`, 4,000 updates a level; each branch trains for as many updates and with as
many weights as the ticket. "trained" begins with the final values of the dense network. "one shot" has masks
of large trained weights, found in one cut. SNIP finds its masks on 100 examples, GraSP on ten of each class,
SynFlow on none.
Departures: the network, MNIST and the length; a temperature of 4 for the dense network's outputs; tickets
are rewound to initialisation, and the distilled ones begin there too.

Ours (5 seeds, 7 % of the weights, dense 97.65 %): the ticket 98.31, from the dense network's values 98.32;
trained to the dense network's outputs, both are only as good as that network, 97.57 and 97.68: here the
teacher is worse than its ticket. One shot 97.76, SNIP 96.57, SynFlow 96.36, GraSP 95.40: the published order.

Run: python -m experiments.branches --config=configs/lottery/retraining_lenet300.py
"""

import runpy
from pathlib import Path

SPARSEST = 0.07
EARLIER = ("SNIP", "GraSP", "SynFlow")


def get_config():
    smoke = runpy.run_path(str(Path(__file__).with_name("smoke.py")))
    cfg = smoke["get_config"]()
    with cfg.unlocked():
        cfg.lottery = {**cfg.lottery.to_dict(), "controls": ()}
        cfg.branches = {
            "levels": (7, 12),
            "branches": {
                "distilled": {"targets": "dense network"},
                "trained": {"kept": "trained"},
                "trained, distilled": {"kept": "trained", "targets": "dense network"},
                "one shot": {"masks": "large_final"},
                **{masks: {"masks": masks} for masks in EARLIER},
            },
        }
        cfg.paper = {
            "citation": "Ma et al. 2021; Frankle et al. 2021 (orders; other networks)",
            "against": "order",
            "departures": "LeNet-300-100 on MNIST, 4,000 updates a level",
            "accept": [
                _better("distilled", "ticket", -0.001, "as good or better (Ma et al. 2021)"),
                *(
                    _better("one shot", masks, 0.0, "worse than magnitude (Frankle et al. 2021)")
                    for masks in EARLIER
                ),
            ],
        }
    return cfg


def _better(a, b, bound, published):
    relation = "beats" if bound >= 0 else "is no worse than"
    return {
        "name": f"{a} {relation} {b} at 7.0 %",
        "kind": "lower_bound",
        "a": a,
        "b": b,
        "remaining": SPARSEST,
        "metric": "test_final",
        "bound": bound,
        "published": published,
    }
