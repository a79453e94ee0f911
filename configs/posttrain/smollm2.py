"""SmolLM2-135M: the published order of solvers at 50 % and 2:4, with three draws of calibration windows."""

import math

from experiments.config import config, part

SOLVERS = {
    "magnitude": part("by_criterion", criterion=part("magnitude")),
    "Wanda": part("by_criterion", criterion=part("wanda")),
    "RIA": part("by_criterion", criterion=part("ria")),
    "SparseGPT": part("sparsegpt"),
}
RECOVERED = part("reconstruct", optimizer=part("adam", learning_rate=1e-4), steps=64)


def get_config():
    rows = {}
    for name, solver in SOLVERS.items():
        per_output = part("groups") if name in ("Wanda", "RIA") else None
        rows[f"{name} 50 %"] = {"solver": solver, "pattern": per_output, "rates": 0.5}
        rows[f"{name} 2:4"] = {"solver": solver, "pattern": part("groups", m=4), "rates": 0.5}
    owl = part("owl", sparsity=0.5)
    rows["SparseGPT, OWL 50 %"] = {"solver": part("sparsegpt"), "rates": owl}
    rows["SparseGPT, recovered 2:4"] = {**rows["SparseGPT 2:4"], "recover": RECOVERED}

    def better(worse, ours):
        return {
            "name": f"{ours} is better than {worse}",
            "kind": "lower_bound",
            "metric": "log_perplexity",
            "a": worse,
            "b": ours,
            "bound": 0.0,
        }

    def factor(row, at_most):
        return {
            "name": f"{row}: at most {at_most} times the dense perplexity",
            "kind": "lower_bound",
            "metric": "log_perplexity",
            "a": "dense",
            "b": row,
            "bound": -math.log(at_most),
        }

    accept = [
        better("magnitude 50 %", "Wanda 50 %"),
        better("Wanda 50 %", "SparseGPT 50 %"),
        better("magnitude 2:4", "Wanda 2:4"),
        better("Wanda 2:4", "SparseGPT 2:4"),
        better("SparseGPT 2:4", "SparseGPT, recovered 2:4"),
        factor("SparseGPT 50 %", 2.1),
        factor("SparseGPT 2:4", 3.9),
        factor("SparseGPT, recovered 2:4", 3.2),
    ]
    return config(
        posttrain={"model": "smollm2-135m", "rows": rows},
        seeds=(0, 1, 2),
        paper={
            "citation": "Frantar & Alistarh 2023; Sun et al. 2023 (orders; no figure for this model)",
            "against": "order",
            "accept": accept,
        },
    )
