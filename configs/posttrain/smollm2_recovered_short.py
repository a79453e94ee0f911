"""SmolLM2-135M at 2:4: recovery within five times the processor time of pruning alone; three seeds.

As smollm2_recovered.py, but with 8 steps of Adam for each block in place of 64, at a rate that falls from
1e-3 to 0 by a cosine. Both were chosen on validation windows and the first ten blocks
(results/benchmarks/recovery_short.md). A claim asks that propagation and recovery together lower the
log-perplexity of SparseGPT by 0.21, which is 15 % of its excess over the dense model in smollm2_recovered.py,
1.40.

Ours, three seeds, perplexity (dense 18.83): SparseGPT 78.81, with propagation 58.70, with 8 steps of recovery
too 54.36: 26 % less excess log-perplexity, for 4.5 times the processor time of SparseGPT. Both claims hold.

Run: python -m experiments.posttrain --config=configs/posttrain/smollm2_recovered_short.py
"""

from configs.posttrain.smollm2 import PROPAGATED, SOLVERS, better
from experiments.config import config, part

STEPS = 8
DECAY = part("cosine_decay_schedule", init_value=1e-3, decay_steps=STEPS)
SHORT = {"recover": part("reconstruct", optimizer=part("adam", learning_rate=DECAY), steps=STEPS)}


def get_config():
    pairs = {"solver": SOLVERS["SparseGPT"], "rates": 0.5, "pattern": part("groups", m=4)}
    recovered = f"SparseGPT, recovered 2:4, {STEPS} steps"
    shorter = better("SparseGPT 2:4", recovered)
    return config(
        posttrain={
            "model": "smollm2-135m",
            "rows": {
                "SparseGPT 2:4": pairs,
                "SparseGPT, propagated 2:4": {**pairs, **PROPAGATED},
                recovered: {**pairs, **PROPAGATED, **SHORT},
            },
        },
        seeds=(0, 1, 2),
        paper={
            "citation": "a measured aim of this project, see docs/posttrain.md",
            "against": "own",
            "accept": [
                {
                    **shorter,
                    "name": f"{STEPS} steps take 15 % of the excess log-perplexity away",
                    "bound": 0.21,
                },
                better("SparseGPT, propagated 2:4", recovered),
            ],
        },
    )
