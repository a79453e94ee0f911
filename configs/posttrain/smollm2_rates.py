"""SmolLM2-135M at 60 %, 70 % and 4:8, with OWL's rates, and with correction for propagated errors; one seed.

Ours, perplexity at 60 %, 70 % and 4:8, in this order (dense 18.83): magnitude 3,280, 96,190, 883; Wanda 117,
641, 75.0; RIA 127, 673, 79.9; SparseGPT 78.0, 178, 55.6, with OWL's rates 78.4 and 173, with propagation
54.6, 101, 46.3.

Run: python -m experiments.posttrain --config=configs/posttrain/smollm2_rates.py
"""

from configs.posttrain.smollm2 import PROPAGATED, SOLVERS, better
from experiments.config import config, part

CITATION = "Frantar & Alistarh 2023; Sun et al. 2023; Yin et al. 2024 (orders)"
EIGHT = part("groups", m=8)


def get_config():
    rows = {}
    for name, solver in SOLVERS.items():
        per_output = part("groups") if name in ("Wanda", "RIA") else None
        for rate in (0.6, 0.7):
            rows[f"{name} {100 * rate:.0f} %"] = {
                "solver": solver,
                "pattern": per_output,
                "rates": rate,
            }
        rows[f"{name} 4:8"] = {"solver": solver, "pattern": EIGHT, "rates": 0.5}
    for rate in (0.6, 0.7):
        rows[f"SparseGPT, OWL {100 * rate:.0f} %"] = {
            "solver": SOLVERS["SparseGPT"],
            "rates": part("owl", sparsity=rate),
        }
    for row in ("60 %", "70 %", "4:8"):
        rows[f"SparseGPT, propagated {row}"] = {**rows[f"SparseGPT {row}"], **PROPAGATED}
    accept = []
    for row in ("60 %", "70 %", "4:8"):
        accept += [
            better(f"magnitude {row}", f"Wanda {row}"),
            better(f"Wanda {row}", f"SparseGPT {row}"),
        ]
    accept += [better(f"SparseGPT {row}", f"SparseGPT, OWL {row}") for row in ("60 %", "70 %")]
    return config(
        posttrain={"model": "smollm2-135m", "rows": rows},
        paper={"citation": CITATION, "against": "order", "accept": accept},
    )
