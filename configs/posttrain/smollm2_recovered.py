"""SmolLM2-135M: what propagated errors and local recovery give back, three draws of windows.

Weight and damping of propagation and the rate of recovery were chosen on validation windows and the first
blocks alone (docs/posttrain.md).

Ours, three seeds, perplexity (dense 18.83): 50 % 40.12, propagated 34.43; 2:4 76.21, propagated 58.19,
recovered 54.26. All six claims hold. Recovery was to the dense block's outputs alone; its target is now mixed
with the dense network's (docs/posttrain.md), and has not been run for 64 steps.

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
