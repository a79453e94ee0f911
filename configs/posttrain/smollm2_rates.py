"""SmolLM2-135M at 60 %, 70 % and 4:8, with propagated errors, and with recovery: one draw of windows."""

from configs.posttrain.smollm2 import SOLVERS
from configs.posttrain.smollm2_recovered import RECOVERED
from experiments.config import config, part


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
        rows[f"{name} 4:8"] = {"solver": solver, "pattern": part("groups", m=8), "rates": 0.5}
    sparsegpt = SOLVERS["SparseGPT"]
    for rate in (0.6, 0.7):
        rows[f"SparseGPT, OWL {100 * rate:.0f} %"] = {
            "solver": sparsegpt,
            "rates": part("owl", sparsity=rate),
        }
    for rate in (0.5, 0.6, 0.7):
        rows[f"SparseGPT, recovered {100 * rate:.0f} %"] = {
            "solver": sparsegpt,
            "rates": rate,
            "recover": RECOVERED,
        }
    for name, pattern in (("50 %", None), ("2:4", part("groups", m=4))):
        rows[f"SparseGPT, propagated {name}"] = {
            "solver": sparsegpt,
            "pattern": pattern,
            "rates": 0.5,
            "propagate": 1.0,
        }
    rows["SparseGPT, recovered 4:8"] = {**rows["SparseGPT 4:8"], "recover": RECOVERED}
    return config(
        posttrain={"model": "smollm2-135m", "rows": rows},
        paper={
            "citation": "Frantar & Alistarh 2023; Sun et al. 2023; Yin et al. 2024 (orders)",
            "against": "order",
        },
    )
