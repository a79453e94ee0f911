"""Three ways to retrain a pruned LeNet-300-100 on MNIST: rewound weights, rewound learning rate, fine-tuning.

Paper: Renda, Frankle & Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning" (2020): at low
density learning-rate rewinding is at least as good as weight rewinding, and both are better than fine-tuning;
ResNet-56 on CIFAR-10, iterative, medians of the authors' data, have 93.56, 93.39, 91.24 % at 10.7 % of the
weights and 91.26, 90.91, 87.65 % at 2.25 %. The paper has no fully connected network. This config is an
analogue for a CPU, in which the gap is small. The claims therefore are that rewinding is not worse than
fine-tuning by more than 0.1 points.
Protocol: SGD with momentum 0.9 at 0.1, divided by 10 after one half and three quarters of the training, as
in the paper; 20 % of what is left removed in each round (10 % of the output layer) by magnitude, 15 rounds to
3.6 %. In every round, each way retrains for as long as the dense training; fine-tuning uses the last rate,
0.001.
Departures: the network, the length (12,000 updates of 128 examples, 28 epochs), pruning by layer, no weight
decay.

Ours (10 seeds, at 3.6 % of the weights; dense 98.41): weight rewinding 98.19, learning-rate rewinding 98.13,
fine-tuning 97.83. Both rewindings beat fine-tuning, by 0.37 points [+0.25] and 0.30 [+0.24]; ten seeds do not
show that learning-rate rewinding is no worse than weight rewinding (-0.06 [-0.15], where the bound had to be
above -0.10).

Cost: 92 CPU-minutes on an AMD EPYC, 1 ms an update.

Run: python -m experiments.branches --config=configs/lottery/renda2020_lenet300.py
"""

from experiments.config import config, part

STEPS = 12_000
WAYS = {
    "WR": {"rewind": "weights"},
    "LRR": {"rewind": "learning_rate"},
    "FT": {"rewind": "finetune"},
}


def _claim(a, b, published):
    return {
        "name": f"{a} is not worse than {b} at 3.6 %",
        "kind": "lower_bound",
        "a": a,
        "b": b,
        "remaining": 0.036,
        "metric": "test_final",
        "bound": -0.001,
        "published": published,
    }


def get_config():
    decay = part(
        "piecewise_constant_schedule",
        init_value=0.1,
        boundaries_and_scales={STEPS // 2: 0.1, 3 * STEPS // 4: 0.1},
    )
    return config(
        data=part("mnist", batch_size=128),
        model=part("lenet_300_100"),
        optimizer=part("sgd", learning_rate=decay, momentum=0.9),
        method=part(
            "magnitude", sparsity=0.2, allocation=part("uniform", rates={"fc3/kernel": 0.5})
        ),
        steps=STEPS,
        seeds=tuple(range(10)),
        eval_every=1_000,
        log_every=500,
        save_every=6_000,
        lottery={"rounds": 15, "controls": ()},
        branches={"tickets": WAYS},
        paper={
            "citation": "Renda et al. 2020, iterative pruning",
            "against": "order",
            "number": "LRR >= WR >> FT at low density, of ResNet-56 on CIFAR-10",
            "accept": [
                _claim("WR", "FT", "+2.15 pp at 10.7 %, +3.26 pp at 2.25 %, ResNet-56"),
                _claim("LRR", "FT", "+2.32 pp at 10.7 %, +3.61 pp at 2.25 %, ResNet-56"),
                _claim("LRR", "WR", "+0.17 pp at 10.7 %, +0.35 pp at 2.25 %, ResNet-56"),
            ],
        },
    )
