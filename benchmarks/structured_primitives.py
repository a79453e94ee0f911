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
    free = sum(group.size for group in graph.groups if "in[1]" in [str(m) for m in group.members])
    return free, jp.structured.pinned(graph).get("in[1]", "")


def error(operation: Operation) -> float:
    """Of the network that has lost half of its units, whether that is exact or not."""
    (params, x) = arrays()
    apply = network(operation)
    graph = jp.structured.trace(apply, params, x)
    rng = np.random.default_rng(0)
    kept = [rng.permutation(group.size) < (group.size + 1) // 2 for group in graph.groups]
    by_path = Coupled(graph.groups).masks(kept)
    masks = {path: by_path.get(path) for path in params}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they differ is what is measured
        small = jp.structured.shrink(graph, params, masks)
    masked = jax.jit(apply)(jp.masks.apply(params, masks), x)
    difference = jnp.abs(jax.jit(small.apply)(small.params, x) - masked).max()
    return float(difference / jnp.abs(masked).max())


def rows() -> list[tuple[str, str, str, str]]:
    """Kind, operation, free features and what came of removing half of them."""
    found = []
    for kind, operations in KINDS.items():
        for name, operation in operations.items():
            free, why = width(operation)
            if not free:
                found.append((kind, name, f"pinned: {why}", ""))
                continue
            off = error(operation)
            said = "exact" if off < EXACT else f"differs by {off:.2g}"
            found.append((kind, name, f"{free} of {FEATURES}", said))
    return found


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/structured_primitives.md"))
    arguments = parser.parse_args()
    found = rows()
    pinned = [row for row in found if row[2].startswith("pinned")]
    exact = [row for row in found if row[3] == "exact"]
    lines = [
        "# Operations between two layers",
        "",
        *__doc__.split("\n\nRun:")[0].split("\n"),
        "",
        f"{len(found)} operations: {len(exact)} are exact, {len(found) - len(exact) - len(pinned)} "
        f"let something through, {len(pinned)} pin the width. `python -m benchmarks.structured_primitives`",
        "",
        table(("kind", "operation", "features that can go", "without half of them"), found),
        "",
    ]
    arguments.out.write_text("\n".join(lines))
    print("\n".join(lines[-4:]))


if __name__ == "__main__":
    main()
