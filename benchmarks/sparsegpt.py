"""How long SparseGPT takes for one layer, in units of what it cannot do without, and beside its publication.

The unit is one matrix product [n, n] x [n, outputs] and one Cholesky factorisation [n, n] in the same
process. PyTorch is not needed: the published algorithm is written in NumPy (`_published_sparsegpt`), in
float32, with LAPACK behind it. Seconds are those of the processor, best of the rounds; libraries are held to
one thread. Kernels of one input are solved together and apart.

Run: python -m benchmarks.sparsegpt --sizes 1024   (writes results/benchmarks/sparsegpt.json and .md)
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _published_sparsegpt as published
from benchmarks import _timing
from experiments.reports.markdown import table
from jaxprune import patterns
from jaxprune.posttrain import solvers
from jaxprune.posttrain.contests import contest
from jaxprune.posttrain.views import Layout

ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
PATTERNS = {"50 %": (patterns.unstructured(), None), "2:4": (patterns.groups(4), (2, 4))}
COLUMNS = (
    "n",
    "pattern",
    "product",
    "Cholesky",
    "ours",
    "ours / (product + Cholesky)",
    "published, NumPy",
    "published / ours",
    "error, published",
    "error, ours",
)


def processor_seconds(thunk: Callable[[], Any], rounds: int) -> float:
    """Returns the least processor time of some rounds, after one that compiles."""
    jax.block_until_ready(thunk())
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        jax.block_until_ready(thunk())
        seconds.append(time.process_time() - start)
    return min(seconds)


def layer(size: int) -> tuple[jax.Array, jax.Array]:
    """Returns a kernel `[n, n]` and the Gram matrix of inputs with a spectrum that falls, by float32."""
    kernel, gram = published.layer(size, size, 2 * size)
    return jnp.asarray(kernel, jnp.float32), jnp.asarray(gram, jnp.float32)


def one_size(size: int, rounds: int, reference: bool) -> list[dict[str, Any]]:
    """Returns a row for each pattern."""
    kernel, gram = layer(size)
    highest = jax.lax.Precision.HIGHEST
    multiply = jax.jit(lambda left, right: jnp.dot(left, right, precision=highest))
    product_seconds = processor_seconds(lambda: multiply(gram, kernel), rounds)
    damped = gram + 0.01 * jnp.mean(jnp.diagonal(gram)) * jnp.eye(size)
    cholesky_seconds = processor_seconds(lambda: jax.jit(jnp.linalg.cholesky)(damped), rounds)
    rows = []
    for pattern_name, (pattern, counts) in PATTERNS.items():
        contests = contest(pattern, Layout((size, size), (), (0,), (1,)), 0.5, "w")
        solver = solvers.sparsegpt()

        def solve(contests=contests, solver=solver):
            return solver([kernel[None]], [contests], grams=gram[None])

        our_seconds = processor_seconds(solve, rounds)
        exact_arrays = np.asarray(kernel, np.float64), np.asarray(gram, np.float64)

        def error(new_kernel, exact_arrays=exact_arrays):
            return published.error(exact_arrays[0], np.asarray(new_kernel), exact_arrays[1])

        row = {
            "n": size,
            "pattern": pattern_name,
            "product": product_seconds,
            "Cholesky": cholesky_seconds,
            "ours": our_seconds,
            "ours / (product + Cholesky)": our_seconds / (product_seconds + cholesky_seconds),
            "error, ours": error(solve()[0].kernel[0]),
        }
        if reference:
            start = time.process_time()
            published_kernel = published.sparsegpt(
                np.asarray(kernel), np.asarray(gram), 0.5, counts, dtype=np.float32
            )
            published_seconds = time.process_time() - start
            row |= {
                "published, NumPy": published_seconds,
                "published / ours": published_seconds / our_seconds,
            }
            row["error, published"] = error(published_kernel)
        rows.append(row)
        print({key: row[key] for key in COLUMNS if key in row}, flush=True)
    return rows


def together(size: int, shared: int, rounds: int) -> dict[str, Any]:
    """Returns the seconds for queries, keys and values of one input together and apart (50 %).

    Args:
      size: inputs, and outputs of the queries.
      shared: query heads for each head of keys and values: 1, or more with grouped queries.
      rounds: of which the best counts.
    """
    kernel, gram = layer(size)
    outputs = size // shared
    kernels = [kernel[None], kernel[None, ::-1, :outputs], -kernel[None, :, :outputs]]
    contests = [
        contest(
            patterns.unstructured(), Layout(kernel_of_layer.shape[1:], (), (0,), (1,)), 0.5, "w"
        )
        for kernel_of_layer in kernels
    ]
    solver = solvers.sparsegpt()
    together_seconds = processor_seconds(
        lambda: solver(kernels, contests, grams=gram[None]), rounds
    )
    pairs = list(zip(kernels, contests, strict=True))

    def alone():
        return [
            solver([kernel_of_layer], [contest_of_kernel], grams=gram[None])
            for kernel_of_layer, contest_of_kernel in pairs
        ]

    apart_seconds = processor_seconds(alone, rounds)
    return {
        "n": size,
        "query heads per key head": shared,
        "together": together_seconds,
        "apart": apart_seconds,
        "together / apart": together_seconds / apart_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no_reference", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/sparsegpt"))
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        command = [sys.executable, "-m", "benchmarks.sparsegpt", *sys.argv[1:]]
        os.execve(
            sys.executable, command, {**os.environ, **ONE_THREAD}
        )  # libraries read it at start
    rows = [
        row
        for size in arguments.sizes
        for row in one_size(size, arguments.rounds, not arguments.no_reference)
    ]
    shared = [
        together(size, heads, arguments.rounds) for size in arguments.sizes for heads in (1, 4)
    ]
    print(shared)
    _timing.write(arguments.out.with_suffix(".json"), {"layers": rows, "together": shared})

    def number(value):
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    table_lines = [[number(row.get(column, "")) for column in COLUMNS] for row in rows]
    column_names = list(shared[0])
    text = "\n".join(
        [
            "# SparseGPT, one layer",
            "",
            _timing.hardware_line(_timing.hardware()),
            "",
            "Processor seconds, one thread; the publication's algorithm in NumPy, not its authors' program.",
            "",
            table(COLUMNS, table_lines),
            "",
            "Queries, keys and values:",
            "",
            table(column_names, [[number(row[name]) for name in column_names] for row in shared]),
            "",
        ]
    )
    arguments.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
