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
    fn, params, *inputs = network()
    graph = jp.structured.trace(fn, params, *inputs)
    flagged = [group for group in graph.groups if not group.exact]
    masks = jp.structured.prune(graph, params, sparsity=0.5)
    small = jp.structured.shrink(graph, params, masks)
    ours = jax.tree.leaves(jax.jit(small.apply)(small.params, *inputs))
    theirs = jax.tree.leaves(fn(jp.masks.apply(params, masks), *inputs))
    pairs = zip(ours, theirs, strict=True)
    off = max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)
    units = sum(group.size for group in graph.groups)
    why = "; ".join(sorted({group.reason for group in flagged}))
    return [name, str(len(graph.groups)), str(units), str(len(flagged)), why, f"{off:.1e}"]


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
