"""Dense, GMP, RigL, SET and static sparse ResNet-20 on CIFAR-10 (re-encoded as JPEG, quality 75), 80 to 95 %.

Papers: Evci et al., "Rigging the Lottery: Making All Tickets Winners" (2020), for the order of the methods
(their network is WRN-22-2, in a figure); Zhu & Gupta (2017).
Protocol of CIFAR-10 ResNets: SGD with momentum 0.9 and weight decay 1e-4, batch 128, crops and mirrored
images, learning rate 0.1 divided by 10 after a half and three quarters of 64,000 updates. All convolutions
except the first are pruned, and so is the output layer. Layer densities are Erdős–Rényi-kernel; masks change
every 100 updates until 75 % of the training. GMP prunes from 20 to 75 % of the training, with the same
fraction in each layer.
Departures: the images are not the CIFAR-10 originals, so results carry the name cifar10_jpeg75.
Cost: about 11 CPU-hours per training without an accelerator. Not run yet.

Run: python -m experiments.compare --config=configs/compare/resnet20_cifar10.py
"""

from experiments.config import config, part


def get_config():
    steps = 64_000
    moving = {"every": 100, "end": steps * 3 // 4}
    at = {"metric": "test_accuracy", "sparsity": 0.95}
    return config(
        data=part("cifar10_jpeg75", batch_size=128, augment="crop_flip"),
        model=part("resnet20"),
        # LARS without its trust ratio is SGD with momentum and weight decay in the gradient.
        optimizer=part(
            "lars",
            learning_rate=part(
                "piecewise_constant_schedule",
                init_value=0.1,
                boundaries_and_scales={steps // 2: 0.1, steps * 3 // 4: 0.1},
            ),
            momentum=0.9,
            weight_decay=1e-4,
            trust_ratio_mask=False,
        ),
        prunable="(block./conv.|fc)/kernel",
        steps=steps,
        seeds=(0, 1, 2),
        eval_every=2_000,
        save_every=8_000,
        compare={
            "sparsities": (0.8, 0.9, 0.95),
            "methods": {
                "static": part("static"),
                "SET": part("set_", **moving),
                "RigL": part("rigl", **moving),
                "GMP": part("gmp", begin=steps // 5, end=steps * 3 // 4, every=500),
            },
        },
        paper={
            "citation": "Evci et al. 2020 (the order of the methods)",
            "accept": [
                {
                    "name": "SET beats static",
                    "kind": "beats",
                    "a": "SET",
                    "b": "static",
                    "d": 0.005,
                    **at,
                },
                {"name": "RigL matches SET", "kind": "matches", "a": "RigL", "b": "SET", **at},
                {"name": "GMP matches RigL", "kind": "matches", "a": "GMP", "b": "RigL", **at},
            ],
        },
    )
