"""How long SparseGPT takes for one layer, in units of what it cannot do without, and beside its publication.

The unit is one matrix product [n, n] x [n, outputs] and one Cholesky factorisation [n, n] in the same
process. The published algorithm stands beside it as its authors wrote it down: in PyTorch where an
interpreter that has it is given, else in NumPy (`_published_sparsegpt`), both in float32. Seconds are those
of the processor, best of the rounds, the published ones' before and after ours; libraries are held to one
thread. Kernels of one input are solved together and apart.

Run: python -m benchmarks.sparsegpt --sizes 1024 2048 4096 --torch_python=PATH
     (writes results/benchmarks/sparsegpt.json and .md)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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

ROOT = Path(__file__).parent.parent
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
TOKENS = 8192  # rows of the Gram matrices
LAYER_COLUMNS = (
    "n",
    "pattern",
    "product",
    "Cholesky",
    "ours",
    "ours / (product + Cholesky)",
    "published",
    "published / ours",
    "error, published",
    "error, ours",
)
SHARED_COLUMNS = (
    "n",
    "query heads per key head",
    "solved together",
    "solved apart",
    "together / apart",
    "one Gram matrix",
    "together / apart, with Gram matrices",
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


def multiply(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.dot(left, right, precision=jax.lax.Precision.HIGHEST)


class Published:
    """The published algorithm on one layer, in PyTorch or NumPy."""

    def __init__(self, kernel: np.ndarray, gram: np.ndarray, rounds: int, python: str | None):
        self.kernel, self.gram = kernel.astype(np.float32), gram.astype(np.float32)
        self.rounds, self.python = rounds, python
        self.seconds: dict[str, float] = {}
        self.kernels: dict[str, np.ndarray] = {}

    def run(self) -> None:
        """Times all patterns; a second call keeps the lower seconds."""
        seconds = self._run_in_torch(self.python) if self.python else self._run_in_numpy()
        for name, value in seconds.items():
            self.seconds[name] = min(value, self.seconds.get(name, value))

    def _run_in_torch(self, python: str) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder, "kernel.npy"), self.kernel)
            np.save(Path(folder, "gram.npy"), self.gram)
            command = [python, "-m", "benchmarks._torch_sparsegpt", folder, str(self.rounds)]
            output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            for index, name in enumerate(published.PATTERNS):
                self.kernels[name] = np.load(Path(folder, f"new_{index}.npy"))
        return json.loads(output.stdout)["seconds"]

    def _run_in_numpy(self) -> dict[str, float]:
        seconds = {}
        for name, (sparsity, counts) in published.PATTERNS.items():
            start = time.process_time()
            self.kernels[name] = published.sparsegpt(
                self.kernel, self.gram, sparsity, counts, dtype=np.float32
            )
            seconds[name] = time.process_time() - start
        return seconds


def one_size(size: int, rounds: int, python: str | None) -> list[dict[str, Any]]:
    """Returns a row for each pattern.

    Args:
      size: inputs and outputs of the kernel.
      rounds: of which the best counts.
      python: an interpreter with PyTorch; None: NumPy.
    """
    exact_kernel, exact_gram = published.layer(size, size, 2 * size)
    kernel, gram = jnp.asarray(exact_kernel, jnp.float32), jnp.asarray(exact_gram, jnp.float32)
    reference = Published(exact_kernel, exact_gram, rounds, python)
    reference.run()
    product = jax.jit(multiply)
    cholesky = jax.jit(jnp.linalg.cholesky)
    damped = gram + 0.01 * jnp.mean(jnp.diagonal(gram)) * jnp.eye(size)
    product_seconds = processor_seconds(lambda: product(gram, kernel), rounds)
    cholesky_seconds = processor_seconds(lambda: cholesky(damped), rounds)
    solver = solvers.sparsegpt()
    our_seconds, our_kernels = {}, {}
    for name, (sparsity, counts) in published.PATTERNS.items():
        pattern = patterns.groups(counts[1]) if counts else patterns.unstructured()
        contests = contest(pattern, Layout((size, size), (), (0,), (1,)), sparsity, "w")

        def solve(contests=contests):
            return solver([kernel[None]], [contests], grams=gram[None])

        our_seconds[name] = processor_seconds(solve, rounds)
        our_kernels[name] = np.asarray(solve()[0].kernel[0])
    reference.run()
    rows = []
    for name in published.PATTERNS:
        seconds, published_seconds = our_seconds[name], reference.seconds[name]
        published_kernel = reference.kernels[name]
        row = {
            "n": size,
            "pattern": name,
            "product": product_seconds,
            "Cholesky": cholesky_seconds,
            "ours": seconds,
            "ours / (product + Cholesky)": seconds / (product_seconds + cholesky_seconds),
            "published": published_seconds,
            "published / ours": published_seconds / seconds,
            "error, published": published.error(exact_kernel, published_kernel, exact_gram),
            "error, ours": published.error(exact_kernel, our_kernels[name], exact_gram),
        }
        rows.append(row)
        print(row, flush=True)
    return rows


def together(size: int, shared: int, rounds: int) -> dict[str, Any]:
    """Returns the seconds for queries, keys and values of one input together and apart (50 %).

    Args:
      size: inputs, and outputs of the queries.
      shared: query heads for each head of keys and values: 1, or more with grouped queries.
      rounds: of which the best counts.
    """
    exact_kernel, exact_gram = published.layer(size, size, 2 * size)
    kernel, gram = jnp.asarray(exact_kernel, jnp.float32), jnp.asarray(exact_gram, jnp.float32)
    outputs = size // shared
    kernels = [kernel[None], kernel[None, ::-1, :outputs], -kernel[None, :, :outputs]]
    contests = [
        contest(
            patterns.unstructured(), Layout(kernel_of_layer.shape[1:], (), (0,), (1,)), 0.5, "w"
        )
        for kernel_of_layer in kernels
    ]
    solver = solvers.sparsegpt()

    def solve(indices: Sequence[int]) -> Any:
        some_kernels = [kernels[index] for index in indices]
        return solver(some_kernels, [contests[index] for index in indices], grams=gram[None])

    together_seconds = processor_seconds(lambda: solve([0, 1, 2]), rounds)
    apart_seconds = processor_seconds(lambda: [solve([index]) for index in range(3)], rounds)
    activations = jnp.tile(kernel, (-(-TOKENS // size), 1))[:TOKENS]
    product = jax.jit(multiply)
    gram_seconds = processor_seconds(lambda: product(activations.T, activations), rounds)
    whole_together = gram_seconds + together_seconds
    whole_apart = 3 * gram_seconds + apart_seconds
    row = {
        "n": size,
        "query heads per key head": shared,
        "solved together": together_seconds,
        "solved apart": apart_seconds,
        "together / apart": together_seconds / apart_seconds,
        "one Gram matrix": gram_seconds,
        "together / apart, with Gram matrices": whole_together / whole_apart,
    }
    print(row, flush=True)
    return row


def rows_as_text(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    def as_text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return table(columns, [[as_text(row[column]) for column in columns] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch_python", help="interpreter with torch and numpy")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/sparsegpt"))
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        command = [sys.executable, "-m", "benchmarks.sparsegpt", *sys.argv[1:]]
        os.execve(
            sys.executable, command, {**os.environ, **ONE_THREAD}
        )  # libraries read it at start
    python = arguments.torch_python
    form = f"PyTorch {_torch_version(python)}" if python else "NumPy"
    layer_rows = [
        row for size in arguments.sizes for row in one_size(size, arguments.rounds, python)
    ]
    shared_rows = [
        together(size, heads, arguments.rounds) for size in arguments.sizes for heads in (1, 4)
    ]
    results = {"published": form, "layers": layer_rows, "together": shared_rows}
    _timing.write(arguments.out.with_suffix(".json"), results)
    text = "\n".join(
        [
            "# SparseGPT, one layer",
            "",
            _timing.hardware_line(_timing.hardware()),
            "",
            f"Processor seconds, one thread, one run; the published algorithm is written in {form}, not its"
            " authors' program. Errors are shares of the squared outputs.",
            "",
            rows_as_text(LAYER_COLUMNS, layer_rows),
            "",
            f"Queries, keys and values of one input; a Gram matrix is of {TOKENS:,} rows:",
            "",
            rows_as_text(SHARED_COLUMNS, shared_rows),
            "",
        ]
    )
    arguments.out.with_suffix(".md").write_text(text)


def _torch_version(python: str) -> str:
    command = [python, "-c", "import torch; print(torch.__version__)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
