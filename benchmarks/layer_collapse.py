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
    one_shot = jp.schedules.one_shot(sparsity=0.5)
    everywhere = jp.allocation.global_budget()
    data_free_methods = {
        name: jp.Method(getattr(jp.criteria, name), schedule=one_shot, allocation=everywhere)
        for name in ("magnitude", "random")
    }

    def by_criterion(name: str, params: Any, sparsity: float) -> Any:
        method = dataclasses.replace(
            data_free_methods[name], schedule=jp.schedules.one_shot(sparsity=sparsity)
        )
        return jp.prune(params, method, key=key)[1]

    def snip(rounds: int, params: Any, sparsity: float) -> Any:
        return jp.at_init.snip(LOSS, params, batches, sparsity=sparsity, rounds=rounds)[1]

    def grasp(params: Any, sparsity: float) -> Any:
        return jp.at_init.grasp(FLAT_LOSS, params, batches, sparsity=sparsity)[1]

    def by_flow(rounds: int, params: Any, sparsity: float) -> Any:
        first_batch = batches[0]
        return jp.at_init.synflow(forward, params, first_batch, sparsity=sparsity, rounds=rounds)[1]

    return {
        "SynFlow, 100 rounds": functools.partial(by_flow, 100),
        "SynFlow, one round": functools.partial(by_flow, 1),
        "SNIP": functools.partial(snip, 1),
        "SNIP, 100 rounds": functools.partial(snip, 100),
        "GraSP": grasp,
        "magnitude": functools.partial(by_criterion, "magnitude"),
        "random": functools.partial(by_criterion, "random"),
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
                        row["leaf"]: row["kept"]
                        for row in jp.masks.summary(prune(params, 1 - 10**-exponent))
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
    return all(
        isinstance(kept_count, int) and kept_count > 0 for kept_count in row["kept"].values()
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Seeds in which every layer has something left."""
    pruner_names = list(dict.fromkeys(row["pruner"] for row in rows))
    heading = ["pruner", *(f"10^{exponent:g}" for exponent in EXPONENTS)]
    lines = ["| " + " | ".join(heading) + " |", "|" + " --- |" * len(heading)]
    for name in pruner_names:
        cells = []
        for exponent in EXPONENTS:
            alive_flags = [
                alive(row) for row in rows if (row["pruner"], row["exponent"]) == (name, exponent)
            ]
            cells.append(f"{sum(alive_flags)} of {len(alive_flags)}")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The share of the least layer that is left, in the mean over seeds."""
    from matplotlib.figure import Figure

    sizes = layer_sizes()
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["pruner"] for row in rows):
        least_shares = []
        for exponent in EXPONENTS:
            pruner_rows = [
                row for row in rows if (row["pruner"], row["exponent"]) == (name, exponent)
            ]
            shares = [
                min(row["kept"][layer] / sizes[layer] for layer in sizes) if alive(row) else 0
                for row in pruner_rows
            ]
            least_shares.append(np.mean(shares))
        shown_shares = [max(share, 1e-6) for share in least_shares]
        axes.plot(
            [10**exponent for exponent in EXPONENTS], shown_shares, marker="o", ms=4, label=name
        )
    axes.set(xscale="log", yscale="log", xlabel="compression of the prunable weights")
    axes.set(
        ylabel="left of the layer that has least (1e-6: nothing)", title="LeNet-5, MNIST, 3 seeds"
    )
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    folder = parser.parse_args().out
    rows = measured()
    sizes = layer_sizes()
    layer_count = len(sizes)
    weight_count = sum(sizes.values())
    setting = {"jax": jax.__version__, "cpu": platform.processor() or platform.machine()}
    (folder / "layer_collapse.json").write_text(
        json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n"
    )
    text = (
        "# Layer collapse\n\nWritten by `python -m benchmarks.layer_collapse`: seeds in which every layer of "
        f"LeNet-5 has a weight left, by compression. {layer_count} layers of {weight_count:,} weights: one "
        f"weight each is left at 10^{np.log10(weight_count / layer_count):.2f}.\n\n{table(rows)}\n"
    )
    (folder / "layer_collapse.md").write_text(text)
    plot(rows, folder / "layer_collapse.png")
    print(text)


if __name__ == "__main__":
    main()
