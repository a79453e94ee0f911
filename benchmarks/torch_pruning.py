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
    apply, params, inputs = architectures.built(name)
    figures: dict[str, Any] = {}
    for attempt in ("first", "again"):

        def fresh_apply(*arguments):
            return apply(*arguments)  # a new function: nothing of it is cached

        start_time = time.process_time()
        graph = structured.trace(fresh_apply, params, inputs)
        traced_time = time.process_time()
        masks = structured.prune(graph, params, sparsity=0.5)
        small = structured.shrink(graph, params, masks)
        jax.block_until_ready(small.params)
        figures[f"grouping_{attempt}"] = traced_time - start_time
        figures[f"cutting_{attempt}"] = time.process_time() - traced_time
    dense = jax.jit(apply)
    small_apply = jax.jit(small.apply)
    expected = dense(jp.masks.apply(params, masks), inputs)
    error = jnp.abs(small_apply(small.params, inputs) - expected).max() / jnp.abs(expected).max()
    thunks = {
        "dense": lambda: dense(params, inputs),
        "small": lambda: small_apply(small.params, inputs),
    }
    timings = _timing.interleave(thunks, rounds=rounds)
    return figures | {
        "groups": len(graph.groups),
        "units": sum(group.size for group in graph.groups),
        "dense_params": architectures.size(params),
        "small_params": architectures.size(small.params),
        "dense_macs": macs(apply, params, inputs),
        "small_macs": macs(small.apply, small.params, inputs),
        "dense_seconds": min(timings["dense"].rounds),
        "small_seconds": min(timings["small"].rounds),
        "error": float(error),
        "sizes": {group.name: group.size for group in graph.groups},
    }


def macs(function: Any, params: Any, inputs: jax.Array) -> float:
    """Multiplications per example."""
    no_masks = jax.tree.map(lambda _: None, params)
    return (
        structured.flops(structured.trace(function, params, inputs), params, no_masks)
        / 2
        / len(inputs)
    )


def alone(function: Any, *arguments: Any) -> Any:
    """What a function gives in a process of its own, in which nothing has been traced yet."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def theirs(python: str | None, *options: str) -> dict[str, Any] | None:
    """What `_torch_side` finds, in the other interpreter."""
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        output_file = Path(folder) / "found.json"
        command = [python, "-m", "benchmarks._torch_side", f"--out={output_file}", *options]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return json.loads(output_file.read_text())


def cases_table(ours: dict[str, Any], torch_outcomes: dict[str, Any] | None) -> str:
    def yes_or_no(outcome):
        return NOT_RUN if outcome is None else {True: "yes", False: "no"}[outcome["failed"]]

    rows = []
    for name, our_outcome in ours.items():
        torch_outcome = torch_outcomes and torch_outcomes[name]
        torch_text = torch_outcome["text"] if torch_outcome else NOT_RUN
        rows.append(
            [
                name,
                torch_text,
                our_outcome["text"],
                yes_or_no(torch_outcome or None),
                yes_or_no(our_outcome),
            ]
        )
    return table(HEADS, rows)


def networks_table(networks: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, sides in networks.items():
        for library, figures in sides.items():
            rows.append(
                [
                    name,
                    library,
                    *(row_of(figures) if figures else [NOT_RUN] + [""] * (len(COLUMNS) - 3)),
                ]
            )
    return table(COLUMNS, rows)


def row_of(figures: dict[str, Any]) -> list[str]:
    def before_and_after(key, unit, digits):
        return f"{figures['dense_' + key] * unit:.{digits}f} to {figures['small_' + key] * unit:.{digits}f}"

    return [
        f"{figures['groups']} / {figures['units']:,}",
        f"{figures['grouping_first']:.2f} / {figures['grouping_again']:.2f}",
        f"{figures['cutting_first']:.2f} / {figures['cutting_again']:.2f}",
        before_and_after("params", 1e-6, 3),
        before_and_after("macs", 1e-6, 1),
        before_and_after("seconds", 1e3, 1),
        f"{figures['dense_seconds'] / figures['small_seconds']:.2f}",
        f"{figures['error']:.1e}" if "error" in figures else "",
    ]


def checked(networks: dict[str, dict[str, Any]]) -> str:
    """Whether the networks have as many parameters as published ones."""
    descriptions = []
    for name, sides in networks.items():
        counts = {figures["dense_params"] for figures in sides.values() if figures}
        published_count = architectures.PUBLISHED.get(name)
        is_wrong = len(counts) > 1 or (published_count is not None and counts != {published_count})
        counts_text = ", ".join(f"{count:,}" for count in sorted(counts))
        remark = (
            ""
            if published_count is None
            else (f", published {published_count:,}" if is_wrong else " as published")
        )
        descriptions.append(
            f"{name} {counts_text}{remark}{' (they differ)' if len(counts) > 1 else ''}"
        )
    return "; ".join(descriptions)


def report(results: dict[str, Any], setting: dict[str, Any]) -> str:
    versions = {**setting["versions"], **results["versions"]}
    versions_text = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        "# Structured pruning beside Torch-Pruning\n\n"
        f"Written by `python -m benchmarks.torch_pruning`: {setting['processor']}, {setting['cores']} cores "
        f"shared with other work; {versions_text}.\n\n"
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
    arguments = parser.parse_args()
    our_outcomes = alone(_hard_cases.outcomes)
    torch_outcomes = theirs(arguments.torch_python)
    networks = {}
    rounds = f"--rounds={arguments.rounds}"
    for name in arguments.only:
        our_figures = alone(compared, name, arguments.rounds)
        torch_figures = theirs(arguments.torch_python, f"--architecture={name}", rounds)
        networks[name] = {
            "jaxprune": our_figures,
            "Torch-Pruning": torch_figures and torch_figures["found"],
        }
        print(f"{name}: done", flush=True)
    results = {
        "versions": torch_outcomes["versions"] if torch_outcomes else {},
        "cases": {
            "jaxprune": our_outcomes,
            "torch-pruning": torch_outcomes and torch_outcomes["found"],
        },
        "networks": networks,
    }
    _timing.write(arguments.out / "torch_pruning.json", results, "flax")
    text = report(results, _timing.hardware("flax"))
    (arguments.out / "torch_pruning.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
