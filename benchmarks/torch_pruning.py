"""Structured pruning beside Torch-Pruning 1.6.1: cases that one of the two gets wrong, and speed and size.

The hard cases are small networks from which units are removed; the outputs are compared with those of the
whole network with zeros in their place, at a relative tolerance of 1e-5. Then half of the units of well-known
networks go, by the sum of magnitudes, in each group alone; Torch-Pruning is told the heads of attention and
to leave the last layer alone. Seconds of CPU are those of a process per network, in which it is done twice.
Latencies are the least of several runs in turns; only their ratios compare.

Run: python -m benchmarks.torch_pruning --torch_python=PATH   (writes results/benchmarks/torch_pruning.md and
.json; PATH is an interpreter with torch and torch-pruning==1.6.1, without which one side is not run)
"""

import argparse
import json
import multiprocessing
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from benchmarks import _hard_cases, _timing, architectures
from experiments.reports.markdown import table
from jaxprune import structured

ROOT = Path(__file__).parent.parent
NOT_RUN = "not run"
HEADS = ("case", "Torch-Pruning", "jaxprune", "claimed failure reproduced", "jaxprune fails")
COLUMNS = (
    "network",
    "by",
    "groups / units",
    "find groups, CPU s: first / again",
    "prune and cut, CPU s: first / again",
    "parameters, M",
    "multiply-adds, M",
    "latency, ms",
    "ratio",
    "error",
)


def compared(name: str, rounds: int) -> dict[str, Any]:
    """Groups, seconds, sizes and latencies of one architecture."""
    apply, params, x = architectures.built(name)
    found: dict[str, Any] = {}
    for when in ("first", "again"):

        def new(*given):
            return apply(*given)  # a new function: nothing of it is cached

        start = time.process_time()
        graph = structured.trace(new, params, x)
        between = time.process_time()
        masks = structured.prune(graph, params, sparsity=0.5)
        small = structured.shrink(graph, params, masks)
        jax.block_until_ready(small.params)
        found[f"grouping_{when}"] = between - start
        found[f"cutting_{when}"] = time.process_time() - between
    dense = jax.jit(apply)
    less = jax.jit(small.apply)
    expected = dense(jp.masks.apply(params, masks), x)
    error = jnp.abs(less(small.params, x) - expected).max() / jnp.abs(expected).max()
    thunks = {"dense": lambda: dense(params, x), "small": lambda: less(small.params, x)}
    timings = _timing.interleave(thunks, rounds=rounds)
    return found | {
        "groups": len(graph.groups),
        "units": sum(group.size for group in graph.groups),
        "dense_params": architectures.size(params),
        "small_params": architectures.size(small.params),
        "dense_macs": macs(apply, params, x),
        "small_macs": macs(small.apply, small.params, x),
        "dense_seconds": min(timings["dense"].rounds),
        "small_seconds": min(timings["small"].rounds),
        "error": float(error),
        "sizes": {group.name: group.size for group in graph.groups},
    }


def macs(fn: Any, params: Any, x: jax.Array) -> float:
    """Multiplications per example."""
    nothing = jax.tree.map(lambda _: None, params)
    return structured.flops(structured.trace(fn, params, x), params, nothing) / 2 / len(x)


def alone(function: Any, *args: Any) -> Any:
    """What a function gives in a process of its own, in which nothing has been traced yet."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def theirs(python: str | None, *options: str) -> dict[str, Any] | None:
    """What `_torch_side` finds, in the other interpreter."""
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [python, "-m", "benchmarks._torch_side", f"--out={out}", *options]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())


def cases_table(ours: dict[str, Any], other: dict[str, Any] | None) -> str:
    def told(outcome):
        return NOT_RUN if outcome is None else {True: "yes", False: "no"}[outcome["failed"]]

    rows = []
    for name, own in ours.items():
        found = other and other[name]
        text = found["text"] if found else NOT_RUN
        rows.append([name, text, own["text"], told(found or None), told(own)])
    return table(HEADS, rows)


def networks_table(found: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, sides in found.items():
        for side, r in sides.items():
            rows.append([name, side, *(row_of(r) if r else [NOT_RUN] + [""] * (len(COLUMNS) - 3))])
    return table(COLUMNS, rows)


def row_of(r: dict[str, Any]) -> list[str]:
    def falls(key, unit, digits):
        return f"{r['dense_' + key] * unit:.{digits}f} to {r['small_' + key] * unit:.{digits}f}"

    return [
        f"{r['groups']} / {r['units']:,}",
        f"{r['grouping_first']:.2f} / {r['grouping_again']:.2f}",
        f"{r['cutting_first']:.2f} / {r['cutting_again']:.2f}",
        falls("params", 1e-6, 3),
        falls("macs", 1e-6, 1),
        falls("seconds", 1e3, 1),
        f"{r['dense_seconds'] / r['small_seconds']:.2f}",
        f"{r['error']:.1e}" if "error" in r else "",
    ]


def checked(found: dict[str, dict[str, Any]]) -> str:
    """Whether the networks have as many parameters as published ones."""
    said = []
    for name, sides in found.items():
        counts = {r["dense_params"] for r in sides.values() if r}
        right = architectures.PUBLISHED.get(name)
        wrong = len(counts) > 1 or (right is not None and counts != {right})
        shown = ", ".join(f"{n:,}" for n in sorted(counts))
        why = "" if right is None else (f", published {right:,}" if wrong else " as published")
        said.append(f"{name} {shown}{why}{' (they differ)' if len(counts) > 1 else ''}")
    return "; ".join(said)


def report(results: dict[str, Any], setting: dict[str, Any]) -> str:
    versions = {**setting["versions"], **results["versions"]}
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        "# Structured pruning beside Torch-Pruning\n\n"
        f"Written by `python -m benchmarks.torch_pruning`: {setting['processor']}, {setting['cores']} cores "
        f"shared with other work; {named}.\n\n"
        "## Hard cases\n\nUnits are removed, and outputs compared with those of the whole network with zeros "
        f"in their place, relative to the largest (tolerance {_hard_cases.TOLERANCE:.0e}). All of "
        "Torch-Pruning's had been claimed to fail; whether they did is what this run computed.\n\n"
        f"{cases_table(results['cases']['jaxprune'], results['cases']['torch-pruning'])}\n\n"
        "## Half of the units\n\nEach group loses half of its units by magnitude. Multiply-adds are per "
        "example and as each side counts them: jaxprune all matrix products and convolutions, Torch-Pruning "
        "layers, norms and activation functions, but no attention scores. CPU seconds: one process per "
        "network, in which all is done twice; Torch-Pruning's with one thread. Latency: least of the runs, "
        "dense and small in turns; Torch-Pruning's the better of one thread and all, jaxprune's compiled and "
        "on all cores. Error: small network against zeros in the whole one, relative; Torch-Pruning's "
        "LayerNorms divide by the new width, by intent, so it has none here.\n\n"
        f"{networks_table(results['networks'])}\n\n"
        f"Parameters of the whole networks: {checked(results['networks'])}.\n"
    )


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--torch_python", help="interpreter with torch and torch-pruning==1.6.1")
    parser.add_argument("--only", nargs="*", default=list(architectures.ARCHITECTURES))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    args = parser.parse_args()
    ours = alone(_hard_cases.outcomes)
    other = theirs(args.torch_python)
    networks = {}
    rounds = f"--rounds={args.rounds}"
    for name in args.only:
        own = alone(compared, name, args.rounds)
        found = theirs(args.torch_python, f"--architecture={name}", rounds)
        networks[name] = {"jaxprune": own, "Torch-Pruning": found and found["found"]}
        print(f"{name}: done", flush=True)
    results = {
        "versions": other["versions"] if other else {},
        "cases": {"jaxprune": ours, "torch-pruning": other and other["found"]},
        "networks": networks,
    }
    _timing.write(args.out / "torch_pruning.json", results, "flax")
    text = report(results, _timing.hardware("flax"))
    (args.out / "torch_pruning.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
