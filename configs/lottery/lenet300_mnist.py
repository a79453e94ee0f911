"""The lottery ticket of LeNet-300-100 on MNIST, by the protocol of the paper (`faithful`).

Paper: Frankle & Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks" (2019),
figures 3 and 4. Claims: with 21.1 % of the weights, the ticket stops early 38 % sooner than the dense
network, and is more accurate. Accuracy is highest at 13.5 %, by more than 0.3 points, and falls to that of
the dense network at 3.6 %. The same masks on new initial weights are worse than dense from 21.1 % on.
Protocol: 50,000 updates of 60 examples, Adam 1.2e-3, Gaussian Glorot weights, 5,000 examples held out, 20 %
of what is left removed per layer and round (10 % in the output layer), rewound to initialisation; the early
stop is the least validation loss, measured every 100 updates. 5 tickets, each with 3 reinitialisations.
`:one_reinit` has one reinitialisation, and ends at 3.6 %, where the paper's tickets are as accurate as dense.

Ours, `:one_reinit`, five seeds (92 CPU-minutes on an AMD EPYC): dense 98.14 %; the ticket has 98.43 % at
21.1 % of the weights (+0.29 points, bound +0.19), 0.59 points above its reinitialisation. At 13.5 % it has
+0.28 points, where the paper has more than 0.3 (open), and +0.39 at early stop. It is as good as dense down
to 3.6 %, as in the paper. At 21.1 % it stops 23 % sooner in the median, which five seeds leave open.

Run: python -m experiments.lottery --config=configs/lottery/lenet300_mnist.py             20 rounds
     python -m experiments.lottery --config=configs/lottery/lenet300_mnist.py:one_reinit  15 rounds
"""

from experiments.config import config, part

DEPARTURES = {
    "all": "none in the protocol",
    "one_reinit": "one reinitialisation of each ticket instead of three",
}


def get_config(controls="all"):
    rounds, repeats = {"all": (20, 3), "one_reinit": (15, 1)}[controls]
    return config(
        data=part("mnist", batch_size=60),
        model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1.2e-3),
        method=part(
            "magnitude", sparsity=0.2, allocation=part("uniform", rates={"fc3/kernel": 0.5})
        ),
        steps=50_000,
        seeds=(0, 1, 2, 3, 4),
        eval_every=100,
        save_every=10_000,
        lottery={"rounds": rounds, "controls": ("reinit",), "repeats": repeats},
        paper={
            "citation": "Frankle & Carbin 2019, figures 3 and 4",
            "number": "ticket - dense >= +0.3 pp at its peak; reinit 0.5 pp below the ticket at 21.1 %",
            "against": "order",
            "departures": DEPARTURES[controls],
            "accept": [
                {
                    "name": "ticket is not below dense at 21.1 %",
                    "kind": "lower_bound",
                    "a": "ticket",
                    "b": "dense",
                    "remaining": 0.211,
                    "metric": "test_final",
                    "bound": -0.001,
                },
                {
                    "name": "the ticket gains at 13.5 %",
                    "kind": "beats",
                    "a": "ticket",
                    "b": "dense",
                    "d": 0.003,
                    "remaining": 0.135,
                    "metric": "test_final",
                    "against": "figure",
                    "published": "more than 0.3 points",
                },
                {
                    "name": "the ticket stops sooner at 21.1 %",
                    "kind": "median_ratio",
                    "a": "ticket",
                    "b": "dense",
                    "below": 0.85,
                    "remaining": 0.211,
                    "metric": "early_step",
                    "against": "figure",
                    "published": "38 % sooner",
                },
                {
                    "name": "smallest ticket as good as dense",
                    "kind": "smallest_level",
                    "a": "ticket",
                    "at_most": 0.05,
                    "metric": "test_final",
                    "against": "figure",
                    "published": "3.6 %",
                },
                {
                    "name": "ticket beats its reinitialisation at 21.1 %",
                    "kind": "lower_bound",
                    "a": "ticket",
                    "b": "reinit",
                    "remaining": 0.211,
                    "metric": "test_final",
                    "bound": 0.002,
                },
            ],
        },
    )
