"""Wanda and SparseGPT at 2:4 on the first four blocks of SmolLM2-135M, in about three minutes.

Run: python -m experiments.posttrain --config=configs/posttrain/smollm2_quick.py
"""

from experiments.config import config, part


def get_config():
    pattern = part("groups", m=4)
    return config(
        posttrain={
            "model": "smollm2-135m",
            "prunable": r"layers/[0-3]/(query|key|value|output|gate|up|down)$",
            "calibration": 4,
            "validation": 2,
            "test": 4,
            "rows": {
                "Wanda 2:4": {
                    "solver": part("by_criterion", criterion=part("wanda")),
                    "pattern": pattern,
                },
                "SparseGPT 2:4": {"solver": part("sparsegpt"), "pattern": pattern},
            },
        },
    )
