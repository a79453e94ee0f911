"""What propagating errors gives: perplexity of SmolLM2-135M by weight, first blocks at 2:4 by SparseGPT.

The first eight of thirty blocks are pruned to 2:4, the others stay dense; calibration windows are drawn with
the seed, test windows are those of `jaxprune.models.text`. Weight 0 is SparseGPT as it is.

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

PRUNED = r"layers/[0-7]/(query|key|value|output|gate|up|down)$"
LENGTH = 512
BATCH = 2
COLUMNS = ("calibration windows", "seed", "weight", "perplexity", "CPU seconds")


def main() -> None:
    """Prunes with each weight, and writes the perplexities, anew after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--windows", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--test", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/propagation"))
    arguments = parser.parse_args()
    model = models.load("smollm2-135m")
    test = models.text.windows(model.tokenizer, "test", count=arguments.test)
    dense = models.dense_perplexity(model.apply, model.params, test, expected=model.perplexities)
    tokens = models.text.tokens(model.tokenizer, "calibration")
    batch_shape = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
    plan = posttrain.plan(model.apply, model.params, batch_shape, prunable=PRUNED)
    rows = []
    for seed, windows, weight in itertools.product(
        arguments.seeds, arguments.windows, arguments.weights
    ):
        drawn = models.text.cut(tokens, LENGTH, count=windows, seed=seed)
        start = time.process_time()
        result = posttrain.prune(
            plan,
            model.params,
            list(jnp.asarray(drawn.reshape(-1, BATCH, LENGTH))),
            solver=posttrain.solvers.sparsegpt(),
            pattern=patterns.groups(4),
            propagate=weight,
        )
        seconds = time.process_time() - start
        perplexity = models.perplexity(model.apply, result.params, test)
        values = (windows, seed, weight, perplexity, seconds)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        print(rows[-1], flush=True)
        write(arguments.out, rows, arguments.test, dense)


def write(path: Path, rows: list[dict[str, Any]], test_windows: int, dense: float) -> None:
    """Writes rows as JSON and as a table."""
    setting = {"test windows": test_windows, "dense perplexity": dense}
    _timing.write(path.with_suffix(".json"), {"setting": setting, "rows": rows})
    cells = [
        [
            *(f"{row[name]:g}" for name in COLUMNS[:3]),
            f"{row['perplexity']:.2f}",
            f"{row['CPU seconds']:.0f}",
        ]
        for row in sorted(rows, key=lambda row: tuple(row[name] for name in COLUMNS[:3]))
    ]
    text = [
        "# Error propagation",
        "",
        _timing.hardware_line(_timing.hardware()),
        "",
        "SmolLM2-135M, the first eight of thirty blocks at 2:4 by SparseGPT, the others dense; perplexity on "
        f"{test_windows} test windows of {LENGTH} tokens, dense {dense:.2f}. The machine was shared, and "
        "seconds count compiling.",
        "",
        table(COLUMNS, cells),
        "",
    ]
    path.with_suffix(".md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
