"""What propagating errors gives, and with which damping: first blocks of SmolLM2-135M by SparseGPT.

The first eight of thirty blocks are pruned, the others stay dense; calibration windows are drawn with the
seed. Perplexity is that of validation windows, so that what is chosen here has seen no test window. Weight 0
is SparseGPT as it is.

Run: python -m benchmarks.propagation   (writes results/benchmarks/propagation.json and .md)
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _timing
from experiments.reports.markdown import table
from jaxprune import models, patterns, posttrain
from jaxprune.posttrain import propagation

PRUNED = r"layers/[0-7]/(query|key|value|output|gate|up|down)$"
LENGTH = 512
BATCH = 2
PATTERNS = {"50 %": None, "2:4": patterns.groups(4)}
SETTINGS = ("pattern", "calibration windows", "seed", "solver's damping", "weight", "damping")
MEASURED = ("perplexity", "CPU seconds")


def main() -> None:
    """Prunes with each setting, and writes the perplexities, anew after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--solver_dampings", type=float, nargs="+", default=[0.01])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--dampings", type=float, nargs="+", default=[propagation.DAMP])
    parser.add_argument("--validation", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/propagation"))
    arguments = parser.parse_args()
    model = models.load("smollm2-135m")
    validation = models.text.windows(model.tokenizer, "validation", count=arguments.validation)
    dense = models.perplexity(model.apply, model.params, validation)
    tokens = models.text.tokens(model.tokenizer, "calibration")
    batch_shape = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
    plan = posttrain.plan(model.apply, model.params, batch_shape, prunable=PRUNED)
    rows: list[dict[str, Any]] = []
    for pattern, windows, seed, solver_damping, weight, damping in itertools.product(
        arguments.patterns,
        arguments.windows,
        arguments.seeds,
        arguments.solver_dampings,
        arguments.weights,
        arguments.dampings,
    ):
        if not weight and damping != arguments.dampings[0]:
            continue  # there is nothing to damp
        drawn = models.text.cut(tokens, LENGTH, count=windows, seed=seed)
        propagation.DAMP = damping
        start = time.process_time()
        result = posttrain.prune(
            plan,
            model.params,
            list(jnp.asarray(drawn.reshape(-1, BATCH, LENGTH))),
            solver=posttrain.solvers.sparsegpt(damp=solver_damping),
            pattern=PATTERNS[pattern],
            rates=0.5,
            propagate=weight,
        )
        seconds = time.process_time() - start
        perplexity = models.perplexity(model.apply, result.params, validation)
        settings = (pattern, windows, seed, solver_damping, weight, damping if weight else None)
        rows.append(dict(zip(SETTINGS + MEASURED, (*settings, perplexity, seconds), strict=True)))
        print(rows[-1], flush=True)
        write(arguments.out, rows, arguments.validation, dense)


def write(path: Path, rows: list[dict[str, Any]], windows: int, dense: float) -> None:
    """Writes rows as JSON and as a table."""
    setting = {"validation windows": windows, "dense perplexity": dense}
    _timing.write(path.with_suffix(".json"), {"setting": setting, "rows": rows})
    cells = [
        [
            *("" if row[name] is None else str(row[name]) for name in SETTINGS),
            f"{row['perplexity']:.2f}",
            f"{row['CPU seconds']:.0f}",
        ]
        for row in rows
    ]
    text = [
        "# Error propagation",
        "",
        _timing.hardware_line(_timing.hardware()),
        "",
        "SmolLM2-135M, the first eight of thirty blocks by SparseGPT, the others dense; perplexity on "
        f"{windows} validation windows of {LENGTH} tokens, dense {dense:.2f}. The machine was shared, and "
        "seconds count compiling.",
        "",
        table(SETTINGS + MEASURED, cells),
        "",
    ]
    path.with_suffix(".md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
