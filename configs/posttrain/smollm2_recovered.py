"""SmolLM2-135M at 2:4: what propagated errors and local recovery give back, three draws of windows."""

from configs.posttrain.smollm2 import SOLVERS, better, factor
from experiments.config import config, part

RECOVERED = part("reconstruct", optimizer=part("adam", learning_rate=1e-4), steps=64)


def get_config():
    row = {"solver": SOLVERS["SparseGPT"], "pattern": part("groups", m=4), "rates": 0.5}
    return config(
        posttrain={
            "model": "smollm2-135m",
            "rows": {
                "SparseGPT 2:4": row,
                "SparseGPT, propagated 2:4": {**row, "propagate": 1.0},
                "SparseGPT, recovered 2:4": {**row, "recover": RECOVERED},
            },
        },
        seeds=(0, 1, 2),
        paper={
            "citation": "a measured aim of this project, see docs/posttrain.md",
            "against": "own",
            "accept": [
                better("SparseGPT 2:4", "SparseGPT, propagated 2:4"),
                better("SparseGPT 2:4", "SparseGPT, recovered 2:4"),
                factor("SparseGPT, recovered 2:4", 3.2),
            ],
        },
    )
