"""SmolLM2-135M: the gain by propagation of errors and local recovery; three seeds.

The weight and damping of propagation, and the learning rate of recovery, were chosen on validation windows
and the first blocks alone (docs/posttrain.md).

Ours, three seeds, perplexity (dense 18.83): SparseGPT at 50 % 40.12, with propagation 34.43; at 2:4 76.21,
with propagation 58.19, with recovery too 54.26. All six claims hold. In these runs, recovery trained to the
outputs of the dense block alone. Its target is now a mixture with the outputs of the dense network
(docs/posttrain.md), which has not been run for 64 steps.

Run: python -m experiments.posttrain --config=configs/posttrain/smollm2_recovered.py
"""

from configs.posttrain.smollm2 import PROPAGATED, SOLVERS, better, factor
from experiments.config import config, part

RECOVERED = {"recover": part("reconstruct", optimizer=part("adam", learning_rate=3e-4), steps=64)}


def get_config():
    half = {"solver": SOLVERS["SparseGPT"], "rates": 0.5}
    pairs = {**half, "pattern": part("groups", m=4)}
    return config(
        posttrain={
            "model": "smollm2-135m",
            "rows": {
                "SparseGPT 50 %": half,
                "SparseGPT, propagated 50 %": {**half, **PROPAGATED},
                "SparseGPT 2:4": pairs,
                "SparseGPT, propagated 2:4": {**pairs, **PROPAGATED},
                "SparseGPT, recovered 2:4": {**pairs, **PROPAGATED, **RECOVERED},
            },
        },
        seeds=(0, 1, 2),
        paper={
            "citation": "a measured aim of this project, see docs/posttrain.md",
            "against": "own",
            "accept": [
                better("SparseGPT 50 %", "SparseGPT, propagated 50 %"),
                better("SparseGPT 2:4", "SparseGPT, propagated 2:4"),
                better("SparseGPT, propagated 2:4", "SparseGPT, recovered 2:4"),
                factor("SparseGPT, propagated 50 %", 2.1),
                factor("SparseGPT, propagated 2:4", 3.9),
                factor("SparseGPT, recovered 2:4", 3.2),
            ],
        },
    )
