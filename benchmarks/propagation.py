"""What propagated errors and local recovery give, and at which settings: first blocks of SmolLM2-135M.

The first of thirty blocks are pruned by SparseGPT, the others stay dense; calibration windows are drawn with
the seed. Perplexity is that of validation windows, so that what is chosen here has seen no test window. With
weight 0 and without recovery it is SparseGPT as it is.

Run: python -m benchmarks.propagation   (writes results/benchmarks/propagation.json and .md)
     python -m benchmarks.propagation --blocks 4 --patterns 2:4 --windows 16 --weights 0 0.5 \\
       --recovery_rates 0 1e-4 3e-4 --out results/benchmarks/recovery
     python -m benchmarks.propagation --blocks 10 --patterns 2:4 --windows 16 --seeds 0 --weights 0.5 \\
       --recovery_rates 0 5e-4 1e-3 --recovery_steps 8 --decay --out results/benchmarks/recovery_short
     python -m benchmarks.propagation --blocks 6 --windows 16 32 64 --seeds 0 --weights 0 \\
       --out results/benchmarks/windows
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import _timing
from experiments.reports.markdown import table
from jaxprune import models, patterns, posttrain
from jaxprune.posttrain import propagation

PRUNED = r"layers/[0-{last}]/(query|key|value|output|gate|up|down)$"
LENGTH = 512
BATCH = 2
PATTERNS = {"50 %": None, "2:4": patterns.groups(4)}
SETTINGS = (
    "pattern",
    "calibration windows",
    "seed",
    "solver's damping",
    "weight",
    "damping",
    "rate of recovery",
    "its steps",
)
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
    parser.add_argument("--recovery_rates", type=float, nargs="+", default=[0.0], help="0: none")
    parser.add_argument("--recovery_steps", type=int, nargs="+", default=[64])
    parser.add_argument("--decay", action="store_true", help="rates fall to 0 by a cosine")
    parser.add_argument("--blocks", type=int, choices=range(1, 11), default=8)
    parser.add_argument("--validation", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/propagation"))
    arguments = parser.parse_args()
    model = models.load("smollm2-135m")
    validation = models.text.windows(model.tokenizer, "validation", count=arguments.validation)
    dense = models.perplexity(model.apply, model.params, validation)
    tokens = models.text.tokens(model.tokenizer, "calibration")
    batch_shape = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
    prunable = PRUNED.format(last=arguments.blocks - 1)
    plan = posttrain.plan(model.apply, model.params, batch_shape, prunable=prunable)
    rows: list[dict[str, Any]] = []
    for pattern, windows, seed, solver_damping, weight, damping, rate, steps in itertools.product(
        arguments.patterns,
        arguments.windows,
        arguments.seeds,
        arguments.solver_dampings,
        arguments.weights,
        arguments.dampings,
        arguments.recovery_rates,
        arguments.recovery_steps,
    ):
        if not weight and damping != arguments.dampings[0]:
            continue  # there is nothing to damp
        if not rate and steps != arguments.recovery_steps[0]:
            continue  # nothing is trained
        drawn = models.text.cut(tokens, LENGTH, count=windows, seed=seed)
        propagation.DAMP = damping
        schedule = optax.cosine_decay_schedule(rate, steps) if arguments.decay else rate
        recovery = posttrain.reconstruct(optax.adam(schedule), steps=steps) if rate else None
        start = time.process_time()
        result = posttrain.prune(
            plan,
            model.params,
            list(jnp.asarray(drawn.reshape(-1, BATCH, LENGTH))),
            solver=posttrain.solvers.sparsegpt(damp=solver_damping),
            pattern=PATTERNS[pattern],
            rates=0.5,
            propagate=weight,
            recover=recovery,
        )
        seconds = time.process_time() - start
        perplexity = models.perplexity(model.apply, result.params, validation)
        settings = (
            *(pattern, windows, seed, solver_damping, weight),
            damping if weight else None,
            *((rate, steps) if rate else (None, None)),
        )
        rows.append(dict(zip(SETTINGS + MEASURED, (*settings, perplexity, seconds), strict=True)))
        print(rows[-1], flush=True)
        write(arguments, rows, dense)


def write(arguments: argparse.Namespace, rows: list[dict[str, Any]], dense: float) -> None:
    """Writes rows as JSON and as a table."""
    blocks, windows = arguments.blocks, arguments.validation
    setting = {"blocks": blocks, "validation windows": windows, "dense perplexity": dense}
    _timing.write(arguments.out.with_suffix(".json"), {"setting": setting, "rows": rows})
    rate = "a rate that falls to 0 by a cosine" if arguments.decay else "a constant rate"
    recovery = f"Recovery is by Adam with {rate}, so many steps for each block. "
    cells = [
        [
            *("" if row[name] is None else str(row[name]) for name in SETTINGS),
            f"{row['perplexity']:.2f}",
            f"{row['CPU seconds']:.0f}",
        ]
        for row in rows
    ]
    text = [
        "# Error propagation and local recovery",
        "",
        _timing.hardware_line(_timing.hardware()),
        "",
        f"SmolLM2-135M, the first {blocks} of thirty blocks by SparseGPT, the others dense; perplexity on "
        f"{windows} validation windows of {LENGTH} tokens, dense {dense:.2f}. "
        f"{recovery if any(arguments.recovery_rates) else ''}"
        "The machine was shared, and seconds count compiling.",
        "",
        table(SETTINGS + MEASURED, cells),
        "",
    ]
    arguments.out.with_suffix(".md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
