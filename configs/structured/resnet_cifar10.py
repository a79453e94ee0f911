"""Filters of ResNet-56 and ResNet-20 (CIFAR-10, re-encoded as JPEG, quality 75): half of those inside blocks.

Papers: Li et al. 2017, table 1 (L1 norm of a filter; ResNet-56 93.04 % to 93.06 % with 27.6 % fewer
operations), He et al. 2019 (FPGM; ResNet-56 93.59 % to 93.49 %, 52.6 % fewer operations), Lin et al. 2020
(HRank; 93.26 % to 93.17 %, 50 % fewer), Wang et al. 2021 (growing regularisation).
Protocol of CIFAR-10 ResNets: SGD with momentum 0.9 and weight decay 1e-4, batch 128, crops and mirrored
images, learning rate 0.1 divided by 10 after a half and three quarters of 64,000 updates; then half of the
filters of each block's first convolution are removed at once, as in Li et al., and 14,000 updates (40 epochs)
at a learning rate of 1e-3 follow. With GReg, the filters decay during the first 9,000 of these updates before
they are removed. The pruned network is shrunk physically, tested and timed.
Departures: the same share in each block (Li et al. spare some blocks); the last network is tested, not the
one with the best test accuracy; the images are not the CIFAR-10 originals, so results carry the name
cifar10_jpeg75.
Cost: about 11 CPU-hours per dense training of ResNet-20 without an accelerator. Not run yet.

Run: python -m experiments.structured --config=configs/structured/resnet_cifar10.py       ResNet-56
     python -m experiments.structured --config=configs/structured/resnet_cifar10.py:20    ResNet-20
"""

from experiments.config import config, part

FILTERS = r"block\d+/conv1/kernel\[3\]"
UPDATES, FINETUNE = 64_000, 14_000


def sgd(learning_rate):
    """Returns SGD with momentum and weight decay in the gradient: LARS without its trust ratio."""
    return part(
        "lars",
        learning_rate=learning_rate,
        momentum=0.9,
        weight_decay=1e-4,
        trust_ratio_mask=False,
    )


def get_config(depth="56"):
    decayed = part(
        "piecewise_constant_schedule",
        init_value=0.1,
        boundaries_and_scales={UPDATES // 2: 0.1, UPDATES * 3 // 4: 0.1},
    )
    growth = part("linear_schedule", init_value=0.0, end_value=0.01, transition_steps=6_000)
    filters = {"pattern": part("coupled", only=FILTERS, over="outputs")}
    taylor = {"pattern": part("coupled", only=FILTERS, over="scales")}
    claim = {"b": "dense", "kind": "lower_bound", "sparsity": 0.5}
    return config(
        data=part("cifar10_jpeg75", batch_size=128, augment="crop_flip"),
        model=part(f"resnet{depth}"),
        optimizer=sgd(decayed),
        steps=UPDATES,
        seeds=(0, 1, 2),
        eval_every=2_000,
        log_every=500,
        save_every=8_000,
        compare={
            "sparsities": (0.5,),
            "criteria": {
                "random": {"criterion": "random", **filters},
                "L1 of filters (Li)": {"criterion": "magnitude", **filters},
                "GReg": {
                    "criterion": "magnitude",
                    "removal": part("growing", decay=growth, until=9_000),
                    **filters,
                },
                "FPGM": {"criterion": "fpgm", **filters},
                "Taylor-FO-BN": {"criterion": "unit_taylor", **taylor},
                "APoZ": {"criterion": "apoz", **filters},
                "HRank": {"criterion": "hrank", **filters},
            },
            "pipeline": {
                "when": "trained",
                "finetune": FINETUNE,
                "optimizer": sgd(1e-3),
                "examples": 1_280,
            },
        },
        paper={
            "citation": "Li et al. 2017; He et al. 2019; Lin et al. 2020; Wang et al. 2021",
            "accept": [
                {
                    "name": "FPGM: half of the operations, within 0.5 pp of dense",
                    "a": "FPGM",
                    "bound": -0.005,
                    **claim,
                },
                {
                    "name": "L1: within 1 pp of dense",
                    "a": "L1 of filters (Li)",
                    "bound": -0.01,
                    **claim,
                },
                {
                    "name": "the small network is faster, measured",
                    "kind": "at_least",
                    "a": "L1 of filters (Li)",
                    "metric": "small_faster",
                    "value": 1.2,
                    "sparsity": 0.5,
                },
            ],
        },
    )
