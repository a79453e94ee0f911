"""The published methods side by side: LeNet-300-100 on MNIST, 90 and 98 %.

This is not a table of a paper. Each contestant trains for the same 4,000 updates from the same weights. The
schedules have the shape of the papers', scaled to this length: gradual methods prune from 25 to 60 % of the
training, dynamic sparse training moves weights until 75 %. Nothing was tuned per method. Layers 1 and 2 are
pruned, the output layer stays dense.

Ours (3 seeds, test accuracy in %), at 98 %: of the methods that begin dense the best are GraNet 97.77, GMP
and LAMP 97.71, magnitude increase 97.70; of those that begin sparse RigL with summed gradients 96.31, ITOP
96.06, SNFS 95.91 (RigL 95.73, SET 95.38, static 94.04); dense 98.13. All results: results/compare_methods.

Run: python -m experiments.compare --config=configs/compare/methods.py
"""

from experiments.config import config, part


def get_config():
    gradual = {"begin": 1_000, "end": 2_400, "every": 100}
    moving = {"every": 100, "end": 3_000}
    return config(
        data=part("mnist", batch_size=128),
        model=part("lenet_300_100"),
        optimizer=part("sgd", learning_rate=0.05, momentum=0.9, nesterov=True),
        prunable="fc[12]/kernel",
        steps=4_000,
        seeds=(0, 1, 2),
        save_every=4_000,
        compare={
            "sparsities": (0.9, 0.98),
            "methods": {
                "one shot": part("magnitude", at=2_000),
                "GMP": part("gmp", **gradual),
                "global magnitude": part("global_magnitude", **gradual),
                "LAMP": part("lamp", **gradual),
                "saliency": part("saliency", **gradual),
                "movement": part("movement", straight_through=True, **gradual),
                "weight change": part("weight_change", **gradual),
                "magnitude increase": part("magnitude_increase", **gradual),
                "cyclical": part("cyclical", begin=1_000, end=3_000, every=100, cycles=2),
                "AC-DC": part("ac_dc", begin=800, end=2_400, every=400),
                "GraNet": part("granet", begin=0, end=2_400, every=100),
                "static": part("static"),
                "SET": part("set_", **moving),
                "RigL": part("rigl", **moving),
                "RigL, summed gradients": part("rigl", accumulate=True, **moving),
                "ITOP": part("itop", every=400, end=3_600),
                "SNFS": part("snfs", **moving),
                "DSR": part("dsr", **moving),
                "MEST": part("mest", **moving),
                "STE": part("ste", end=4_000),
                "Top-KAST": part("top_kast", backward_sparsity=0.8, end=4_000),
                "random": part("random", at=2_000),
            },
        },
    )
