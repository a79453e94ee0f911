"""AC/DC beside gradual pruning and a static sparse network: LeNet-300-100 on MNIST, 90 to 98 %.

Paper: Peste, Iofinova, Vladu & Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training of Deep
Neural Networks" (2021). Its claim: a network trained in alternating sparse and dense phases is no worse
than one that is pruned gradually, for fewer operations. The paper has no figure for MNIST.
Protocol: 800 dense updates, then six phases of 400 updates, sparse and dense in turn, then 1,600 sparse
updates.

Ours (5 seeds), at 90 / 95 / 98 %: AC/DC 98.01 / 97.81 / 96.96 %, GMP 98.12 / 98.08 / 97.72, static 97.25 /
96.09 / 92.81, dense 98.13. In a training this short, AC/DC is worse than GMP, and the claim fails at all
three sparsities (results/compare_ac_dc).

Run: python -m experiments.compare --config=configs/compare/ac_dc.py
"""

from experiments.config import config, part

GLOBAL = part("global_budget")


def get_config():
    compared = {"kind": "matches", "a": "AC/DC", "b": "GMP", "metric": "test_accuracy"}
    return config(
        data=part("mnist", batch_size=128),
        model=part("lenet_300_100"),
        optimizer=part("sgd", learning_rate=0.05, momentum=0.9, nesterov=True),
        steps=4_800,
        seeds=(0, 1, 2, 3, 4),
        save_every=2_400,
        compare={
            "sparsities": (0.9, 0.95, 0.98),
            "methods": {
                "AC-DC": part("ac_dc", begin=800, every=400, end=3_200),
                "GMP": part("gmp", begin=800, end=3_200, every=100, allocation=GLOBAL),
                "static": part("static"),
            },
        },
        paper={
            "citation": "Peste et al. 2021 (the method; no MNIST figure)",
            "against": "order",
            "departures": "an MLP on MNIST, phases of 400 updates at a constant rate, not of 5 to 20 epochs",
            "accept": [
                {"name": f"AC/DC matches GMP at {s:.0%}", "sparsity": s, **compared, "a": "AC-DC"}
                for s in (0.9, 0.95, 0.98)
            ],
        },
    )
