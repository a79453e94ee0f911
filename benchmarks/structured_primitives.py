"""Which operations between two layers leave the width of the first free, and whether it shrinks exactly.

For each of `benchmarks._operations`: how many of the 8 features can be removed, or what pins them; and the
largest difference between the network without half of all units and the one with zeros in their place, over
the largest output. Features that are free but not exact let something through where they are zeros.

Run: python -m benchmarks.structured_primitives   (writes results/structured_primitives.md)
"""

import argparse
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks._operations import FEATURES, KINDS, Operation, arrays, network
from experiments.reports.markdown import table
from jaxprune.units.coupling import Coupled

EXACT = 1e-5


def width(operation: Operation) -> tuple[int, str]:
    """How many features can be removed, and why others cannot."""
    graph = jp.structured.trace(network(operation), *arrays())
    free_count = sum(
        group.size for group in graph.groups if "in[1]" in [str(member) for member in group.members]
    )
    return free_count, jp.structured.pinned(graph).get("in[1]", "")


def error(operation: Operation) -> float:
    """Of the network that has lost half of its units, whether that is exact or not."""
    (params, inputs) = arrays()
    apply = network(operation)
    graph = jp.structured.trace(apply, params, inputs)
    rng = np.random.default_rng(0)
    kept_units = [rng.permutation(group.size) < (group.size + 1) // 2 for group in graph.groups]
    by_path = Coupled(graph.groups).masks(kept_units)
    masks = {path: by_path.get(path) for path in params}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they differ is what is measured
        small = jp.structured.shrink(graph, params, masks)
    masked = jax.jit(apply)(jp.masks.apply(params, masks), inputs)
    difference = jnp.abs(jax.jit(small.apply)(small.params, inputs) - masked).max()
    return float(difference / jnp.abs(masked).max())


def rows() -> list[tuple[str, str, str, str]]:
    """Kind, operation, free features and what came of removing half of them."""
    table_rows = []
    for kind, operations in KINDS.items():
        for name, operation in operations.items():
            free_count, pinned_reason = width(operation)
            if not free_count:
                table_rows.append((kind, name, f"pinned: {pinned_reason}", ""))
                continue
            relative_error = error(operation)
            verdict = "exact" if relative_error < EXACT else f"differs by {relative_error:.2g}"
            table_rows.append((kind, name, f"{free_count} of {FEATURES}", verdict))
    return table_rows


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/structured_primitives.md"))
    arguments = parser.parse_args()
    table_rows = rows()
    pinned = [row for row in table_rows if row[2].startswith("pinned")]
    exact = [row for row in table_rows if row[3] == "exact"]
    lines = [
        "# Operations between two layers",
        "",
        *__doc__.split("\n\nRun:")[0].split("\n"),
        "",
        f"{len(table_rows)} operations: {len(exact)} are exact, {len(table_rows) - len(exact) - len(pinned)} "
        f"let something through, {len(pinned)} pin the width. `python -m benchmarks.structured_primitives`",
        "",
        table(("kind", "operation", "features that can go", "without half of them"), table_rows),
        "",
    ]
    arguments.out.write_text("\n".join(lines))
    print("\n".join(lines[-4:]))


if __name__ == "__main__":
    main()
