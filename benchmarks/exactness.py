"""Whether groups of units are exact or flagged, for small networks after published architectures.

Of each network of `benchmarks._small_networks`: how many groups there are and how many units they have, how
many of them are not exact and why, and how far the network without half of the units of all exact groups is
from the one with zeros in their place, over the largest output.

Run: python -m benchmarks.exactness   (writes results/structured_exactness.md)
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from benchmarks._small_networks import NETWORKS
from experiments.reports.markdown import table

COLUMNS = ("network", "groups", "units", "not exact", "why", "half removed, off by")


def row(name: str, network: Any) -> list[str]:
    """One network's row."""
    function, params, *inputs = network()
    graph = jp.structured.trace(function, params, *inputs)
    flagged = [group for group in graph.groups if not group.exact]
    masks = jp.structured.prune(graph, params, sparsity=0.5)
    small = jp.structured.shrink(graph, params, masks)
    small_outputs = jax.tree.leaves(jax.jit(small.apply)(small.params, *inputs))
    masked_outputs = jax.tree.leaves(function(jp.masks.apply(params, masks), *inputs))
    output_pairs = zip(small_outputs, masked_outputs, strict=True)
    largest_error = max(
        float(jnp.abs(output - expected).max() / jnp.abs(expected).max())
        for output, expected in output_pairs
    )
    unit_count = sum(group.size for group in graph.groups)
    reasons = "; ".join(sorted({group.reason for group in flagged}))
    return [
        name,
        str(len(graph.groups)),
        str(unit_count),
        str(len(flagged)),
        reasons,
        f"{largest_error:.1e}",
    ]


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/structured_exactness.md"))
    arguments = parser.parse_args()
    rows = []
    for name, network in NETWORKS.items():
        print(name, flush=True)
        rows.append(row(name, network))
    text = "\n\n".join(["# Exact or flagged", *__doc__.split("\n\n")[:2], table(COLUMNS, rows)])
    arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
