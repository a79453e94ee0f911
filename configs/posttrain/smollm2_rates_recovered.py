"""SmolLM2-135M at 50 %, 60 %, 70 % and 4:8: the gain by local recovery; one seed.

Ours, perplexity of SparseGPT with propagation, and with recovery too (dense 18.83): 50 % 34.09, 32.90; 60 %
54.64, 52.06; 70 % 100.69, 101.16; 4:8 46.27, 41.60. In these runs, recovery trained to the outputs of the
dense block alone. Its target is now a mixture with the outputs of the dense network (docs/posttrain.md),
which has not been run at these rates.

Run: python -m experiments.posttrain --config=configs/posttrain/smollm2_rates_recovered.py
"""

from configs.posttrain.smollm2 import PROPAGATED, SOLVERS, better
from configs.posttrain.smollm2_rates import CITATION, EIGHT
from configs.posttrain.smollm2_recovered import RECOVERED
from experiments.config import config


def get_config():
    rows, accept = {}, []
    for row, pattern, rate in (
        ("50 %", None, 0.5),
        ("60 %", None, 0.6),
        ("70 %", None, 0.7),
        ("4:8", EIGHT, 0.5),
    ):
        pruned = {"solver": SOLVERS["SparseGPT"], "pattern": pattern, "rates": rate}
        rows[f"SparseGPT, propagated {row}"] = {**pruned, **PROPAGATED}
        rows[f"SparseGPT, recovered {row}"] = {**pruned, **PROPAGATED, **RECOVERED}
        accept.append(better(f"SparseGPT, propagated {row}", f"SparseGPT, recovered {row}"))
    return config(
        posttrain={"model": "smollm2-135m", "rows": rows},
        paper={"citation": CITATION, "against": "own", "accept": accept},
    )
