"""At which compression does pruning at initialisation empty a layer? Masks only, nothing is trained.

SynFlow, SNIP and GraSP in one round and in a hundred, magnitude and random, with one global budget, at
compressions from 10 to 10^5, on LeNet-5 (Caffe's) with MNIST. A layer is emptied when none of its weights is
left: then nothing passes. Beside it the most compression that leaves each layer one weight.

Paper: Tanaka, Kunin, Yamins & Ganguli, "Pruning neural networks without any data by iteratively conserving
synaptic flow" (2020): SynFlow never empties a layer before it must, the others do.

Run: python -m benchmarks.layer_collapse   (writes results/benchmarks/layer_collapse.json, .md and .png)
"""

import argparse
import dataclasses
import functools
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp

EXPONENTS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
SEEDS = (0, 1, 2)
MODEL = jp.nn.lenet5_caffe(num_classes=10)


def forward(params: Any, batch: Any) -> jax.Array:
    return MODEL.apply({"params": params}, batch[0], train=False)


def output_loss(logits: jax.Array, batch: Any) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


LOSS = jp.signals.loss_of_outputs(forward, output_loss)
FLAT_LOSS = jp.signals.loss_of_outputs(forward, output_loss, temperature=200)  # GraSP's


def pruners(batches: Any, key: jax.Array) -> dict[str, Callable[[Any, float], Any]]:
    """By name: (params, sparsity) -> masks."""
    once = jp.schedules.one_shot(sparsity=0.5)
    everywhere = jp.allocation.global_budget()
    free = {
        name: jp.Method(getattr(jp.criteria, name), schedule=once, allocation=everywhere)
        for name in ("magnitude", "random")
    }

    def plain(name: str, params: Any, sparsity: float) -> Any:
        method = dataclasses.replace(free[name], schedule=jp.schedules.one_shot(sparsity=sparsity))
        return jp.prune(params, method, key=key)[1]

    def snip(rounds: int, params: Any, sparsity: float) -> Any:
        return jp.at_init.snip(LOSS, params, batches, sparsity=sparsity, rounds=rounds)[1]

    def grasp(params: Any, sparsity: float) -> Any:
        return jp.at_init.grasp(FLAT_LOSS, params, batches, sparsity=sparsity)[1]

    def by_flow(rounds: int, params: Any, sparsity: float) -> Any:
        first = batches[0]
        return jp.at_init.synflow(forward, params, first, sparsity=sparsity, rounds=rounds)[1]

    return {
        "SynFlow, 100 rounds": functools.partial(by_flow, 100),
        "SynFlow, one round": functools.partial(by_flow, 1),
        "SNIP": functools.partial(snip, 1),
        "SNIP, 100 rounds": functools.partial(snip, 100),
        "GraSP": grasp,
        "magnitude": functools.partial(plain, "magnitude"),
        "random": functools.partial(plain, "random"),
    }


def measured() -> list[dict[str, Any]]:
    """One row per pruner, seed and compression."""
    data = jp.data.load("mnist").train
    rows = []
    for seed in SEEDS:
        chosen = np.random.default_rng(seed).permutation(len(data.labels))[:100]
        images = jnp.asarray(data.inputs[chosen], jnp.float32) / 255
        batches = [(images, jnp.asarray(data.labels[chosen]))]
        params = MODEL.init(jax.random.key(seed), images[:1])["params"]
        for name, prune in pruners(batches, jax.random.key(seed)).items():
            for exponent in EXPONENTS:
                try:
                    kept = {
                        r["leaf"]: r["kept"]
                        for r in jp.masks.summary(prune(params, 1 - 10**-exponent))
                    }
                except ValueError as e:  # a round has left nothing that flows
                    kept = {"": str(e)}
                rows.append({"pruner": name, "seed": seed, "exponent": exponent, "kept": kept})
            print(f"seed {seed}: {name}", flush=True)
    return rows


def layer_sizes() -> dict[str, int]:
    """Prunable weights of each layer."""
    params = MODEL.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    return {row["leaf"]: row["weights"] for row in jp.masks.summary(jp.masks.make(params))}


def alive(row: dict[str, Any]) -> bool:
    """Whether each layer has a weight left."""
    return all(isinstance(k, int) and k > 0 for k in row["kept"].values())


def table(rows: list[dict[str, Any]]) -> str:
    """Seeds in which every layer has something left."""
    names = list(dict.fromkeys(row["pruner"] for row in rows))
    head = ["pruner", *(f"10^{e:g}" for e in EXPONENTS)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name in names:
        cells = []
        for exponent in EXPONENTS:
            found = [alive(r) for r in rows if (r["pruner"], r["exponent"]) == (name, exponent)]
            cells.append(f"{sum(found)} of {len(found)}")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The share of the least layer that is left, in the mean over seeds."""
    from matplotlib.figure import Figure

    sizes = layer_sizes()
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    ax = figure.subplots()
    for name in dict.fromkeys(row["pruner"] for row in rows):
        least = []
        for exponent in EXPONENTS:
            own = [r for r in rows if (r["pruner"], r["exponent"]) == (name, exponent)]
            shares = [min(r["kept"][n] / sizes[n] for n in sizes) if alive(r) else 0 for r in own]
            least.append(np.mean(shares))
        shown = [max(x, 1e-6) for x in least]
        ax.plot([10**e for e in EXPONENTS], shown, marker="o", ms=4, label=name)
    ax.set(xscale="log", yscale="log", xlabel="compression of the prunable weights")
    ax.set(
        ylabel="left of the layer that has least (1e-6: nothing)", title="LeNet-5, MNIST, 3 seeds"
    )
    ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    out = parser.parse_args().out
    rows = measured()
    sizes = layer_sizes()
    layers = len(sizes)
    weights = sum(sizes.values())
    setting = {"jax": jax.__version__, "cpu": platform.processor() or platform.machine()}
    (out / "layer_collapse.json").write_text(
        json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n"
    )
    text = (
        "# Layer collapse\n\nWritten by `python -m benchmarks.layer_collapse`: seeds in which every layer of "
        f"LeNet-5 has a weight left, by compression. {layers} layers of {weights:,} weights: one weight "
        f"each is left at 10^{np.log10(weights / layers):.2f}.\n\n{table(rows)}\n"
    )
    (out / "layer_collapse.md").write_text(text)
    plot(rows, out / "layer_collapse.png")
    print(text)


if __name__ == "__main__":
    main()
