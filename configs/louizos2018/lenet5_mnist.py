"""L0 regularisation with hard concrete gates: input units and filters of Caffe's LeNet-5, MNIST.

Paper: Louizos, Welling & Kingma, "Learning Sparse Neural Networks through L0 Regularization" (2018), table
1: from 20-50-800-500 to 20-25-45-462 units at 0.9 % error with one strength (0.1 / N): the first convolution
keeps all its filters.
Protocol of the released code: a gate for each filter of the convolutions and each input unit of the dense
layers, dropout rate 0.5, weight decay 5e-4 inside the penalty, Adam at 1e-3, batches of 100, inputs in
[0, 1], all 60,000 training examples, 200 epochs, the average of all parameters (0.999) tested.
Departures: the test set is read once, after the last update, where the released code keeps the best of all
epochs. An independent replication ended at 14-19-36-21 units and 1.3 %, so exact widths are not a target.

Cost, estimated: 120,000 updates x 60 ms, 2 CPU-hours a seed. Not run yet.

Run: python -m experiments.train --config=configs/louizos2018/lenet5_mnist.py        200 epochs
     python -m experiments.train --config=configs/louizos2018/lenet5_mnist.py:40     40, in scale
"""

from experiments.config import config, part

EXAMPLES, BATCH = 60_000, 100
FILTERS, INPUTS = part("channel", axis=-1), part("channel", axis=-2)


def get_config(epochs="200"):
    against = "figure" if epochs == "200" else "shortened"
    return config(
        data=part("mnist", batch_size=BATCH),
        model=part("lenet5_caffe", kernel_init=part("he_normal")),
        optimizer=part("adam", learning_rate=1e-3),
        gate=part(
            "hard_concrete",
            pattern={"conv": FILTERS, "fc": INPUTS},
            dropout_rate=0.5,
            strength=0.1 / EXAMPLES,
            weight_decay=5e-4,
        ),
        ema=0.999,
        validation=0,
        steps=int(epochs) * EXAMPLES // BATCH,
        seeds=(0, 1, 2),
        save_every=2_000,
        log_every=1_000,
        eval_every=2_000,
        paper={
            "citation": "Louizos et al. 2018, table 1",
            "against": against,
            "accept": [
                {
                    "name": "test error of the shrunk network",
                    "kind": "band",
                    "metric": "small_accuracy",
                    "value": 0.991,
                    "published": "0.9 %",
                },
            ],
        },
    )
