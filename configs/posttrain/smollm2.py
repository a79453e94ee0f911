"""SmolLM2-135M: the published order of solvers at 50 % and 2:4, with three seeds of calibration windows.

Ours, three seeds: the perplexity of SparseGPT is 2.13 times that of the dense model (18.83) at 50 %, and 4.13
times at 2:4. The order of magnitude, Wanda and SparseGPT holds at both (docs/posttrain.md).

Run: python -m experiments.posttrain --config=configs/posttrain/smollm2.py
"""

import math

from experiments.config import config, part

SOLVERS = {
    "magnitude": part("by_criterion", criterion=part("magnitude")),
    "Wanda": part("by_criterion", criterion=part("wanda")),
    "RIA": part("by_criterion", criterion=part("ria")),
    "SparseGPT": part("sparsegpt"),
}
PROPAGATED = {"propagate": 0.5}  # chosen on validation windows: results/benchmarks/propagation.md


def better(worse, ours):
    """Returns the claim that the row `ours` has a lower perplexity than the row `worse`."""
    return {
        "name": f"{ours} is better than {worse}",
        "kind": "lower_bound",
        "metric": "log_perplexity",
        "a": worse,
        "b": ours,
        "bound": 0.0,
    }


def factor(row, at_most):
    """Returns the claim that a row has at most `at_most` times the dense perplexity."""
    return {
        "name": f"{row}: at most {at_most} times the dense perplexity",
        "kind": "lower_bound",
        "metric": "log_perplexity",
        "a": "dense",
        "b": row,
        "bound": -math.log(at_most),
        "against": "own",
    }


def get_config():
    rows = {}
    for name, solver in SOLVERS.items():
        per_output = part("groups") if name in ("Wanda", "RIA") else None
        rows[f"{name} 50 %"] = {"solver": solver, "pattern": per_output, "rates": 0.5}
        rows[f"{name} 2:4"] = {"solver": solver, "pattern": part("groups", m=4), "rates": 0.5}
    owl = part("owl", sparsity=0.5)
    rows["SparseGPT, OWL 50 %"] = {"solver": part("sparsegpt"), "rates": owl}
    accept = [
        better("magnitude 50 %", "Wanda 50 %"),
        better("Wanda 50 %", "SparseGPT 50 %"),
        better("magnitude 2:4", "Wanda 2:4"),
        better("Wanda 2:4", "SparseGPT 2:4"),
        factor("SparseGPT 50 %", 2.1),
        factor("SparseGPT 2:4", 3.9),
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
