"""Coupled units of a published network, EfficientNet-Lite0 with its ImageNet weights, are physically removed.

The weights come from a Python package, read without PyTorch. With --torch_python the logits are compared with
those of PyTorch's port of the network. Then a quarter and a half of the units of each group go by magnitude,
and the small network is compared with the whole one that has zeros in their place: outputs, parameters,
operations, time. Nothing is trained and ImageNet is not here, so this says nothing of accuracy.

Run: python -m benchmarks.efficientnet_lite0   (writes results/benchmarks/efficientnet_lite0.json and .md)
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks._timing import hardware, interleave, write

NAME = "efficientnet_lite0"
SPARSITIES = (0.25, 0.5)
SIDE = 224
ROUNDS = {1: 61, 8: 15}  # by batch size
MODEL = jp.nn.efficientnet_lite0()

# What the other interpreter runs: the package efficientnet-lite-pytorch must be importable there.
TORCH = """
import sys
import numpy, torch
from efficientnet_lite_pytorch import EfficientNet
weights, inputs, outputs = sys.argv[1:]
model = EfficientNet.from_name("efficientnet-lite0")
model.load_state_dict(torch.load(weights, weights_only=True))
images = torch.from_numpy(numpy.load(inputs).transpose(0, 3, 1, 2).copy())
with torch.no_grad():
    numpy.save(outputs, model.eval()(images).numpy())
print("PyTorch", torch.__version__)
"""


def size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def operations(fn: Any, variables: Any) -> int:
    """Of one image."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return sum(jax.tree.leaves(jp.metrics.flops(fn, variables, image)))


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference over the largest size."""
    ours = np.asarray(ours)
    theirs = np.asarray(theirs)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def narrow(share: float) -> Any:
    """The network with a share of all its widths, built as any Flax model is."""
    stages = tuple(s._replace(filters=round(s.filters * share)) for s in MODEL.stages)
    return MODEL.clone(stages=stages, stem=round(32 * share), head=round(1280 * share))


def images() -> tuple[np.ndarray, str]:
    """Eight inputs, scaled to about [-1, 1]: a photo and its mirror image if there is one, and noise."""
    rng = np.random.default_rng(0)
    found = [rng.uniform(0, 255, (SIDE, SIDE, 3)) for _ in range(8)]
    what = "uniform noise"
    try:
        from matplotlib import cbook
        from PIL import Image

        path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
        photo = Image.open(str(path)).convert("RGB")
    except (ImportError, OSError):
        pass
    else:
        side = min(photo.size)
        left = (photo.size[0] - side) // 2
        photo = photo.crop((left, 0, left + side, side)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        found[0] = np.asarray(photo, np.float64)
        found[1] = found[0][:, ::-1]
        what = "a photo (matplotlib's grace_hopper.jpg), its mirror image, and uniform noise"
    return ((np.stack(found) - 127) / 128).astype(np.float32), what


def beside_torch(python: str, weights: Path, variables: Any, inputs: np.ndarray) -> dict[str, Any]:
    """Compares logits with those of PyTorch in another interpreter, on these inputs and on normal noise."""
    noise = np.random.default_rng(1).standard_normal((4, SIDE, SIDE, 3)).astype(np.float32)
    inputs = np.concatenate([inputs, noise])
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "inputs.npy")
        found = Path(folder, "outputs.npy")
        np.save(given, inputs)
        command = [python, "-c", TORCH, str(weights), str(given), str(found)]
        version = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        theirs = np.load(found)
    ours = np.asarray(jax.jit(MODEL.apply)(variables, inputs))
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    return {
        "version": version.strip(),
        "difference": difference(ours, theirs),
        "inputs": len(inputs),
        "same class": same,
    }


def measured(torch_python: str | None, rounds: dict[int, int] = ROUNDS) -> dict[str, Any]:
    path = jp.data.fetch_weights(NAME)
    tensors = jp.data.load_weights(NAME)
    variables = jax.tree.map(jnp.asarray, jp.nn.efficientnet_lite0_from_torch(tensors))
    inputs, what = images()
    dense = jax.jit(MODEL.apply)
    logits = dense(variables, inputs)
    counters = sum(name.endswith("num_batches_tracked") for name in tensors)
    found: dict[str, Any] = {
        "tensors": len(tensors),
        "counters": counters,
        "leaves": len(jax.tree.leaves(variables)),
        "inputs": what,
        "class of the first input": int(logits[0].argmax()),
    }
    if torch_python:
        found["torch"] = beside_torch(torch_python, path, variables, inputs)

    start = time.perf_counter()
    graph = jp.structured.trace(MODEL.apply, variables, inputs[:1])
    found["seconds to trace"] = time.perf_counter() - start
    found["groups"] = {group.name: group.size for group in graph.groups}
    rows: list[dict[str, Any]] = [
        {
            "sparsity": 0.0,
            "units": sum(group.size for group in graph.groups),
            "params": size(variables["params"]),
            "flops": operations(MODEL.apply, variables),
        }
    ]
    thunks = {"dense": (dense, variables)}
    for sparsity in SPARSITIES:
        start = time.perf_counter()
        masks = jp.structured.prune(graph, variables, sparsity=sparsity)
        small = jp.structured.shrink(graph, variables, masks)
        seconds = time.perf_counter() - start
        apply = jax.jit(small.apply)
        native = jax.jit(narrow(1 - sparsity).apply)
        masked = dense(jp.masks.apply(variables, masks), inputs)
        ours = apply(small.params, inputs)
        own = jp.structured.trace(small.apply, small.params, inputs[:1])
        row = {
            "sparsity": sparsity,
            "units": sum(group.size for group in own.groups),
            "params": size(small.params["params"]),
            "flops": operations(small.apply, small.params),
            "difference": difference(ours, masked),
            "difference from native": difference(ours, native(small.params, inputs)),
            "seconds to prune and shrink": seconds,
        }
        rows.append(row)
        thunks[f"{sparsity:.0%}"] = (apply, small.params)
        thunks[f"{sparsity:.0%}, native"] = (native, small.params)
        print(row, flush=True)
    found["times"] = {}
    for batch, count in rounds.items():
        x = jnp.asarray(inputs[:batch])
        each = {name: lambda f=f, p=p, x=x: f(p, x) for name, (f, p) in thunks.items()}
        timed = interleave(each, rounds=count)
        found["times"][str(batch)] = {name: timing.rounds for name, timing in timed.items()}
    found["rows"] = rows
    start = time.perf_counter()
    found["alone"] = jp.structured.verify(graph, variables, inputs[:1])
    found["seconds to verify"] = time.perf_counter() - start
    return found


def report(found: dict[str, Any], machine: dict[str, Any]) -> str:
    rows = found["rows"]
    times = found["times"]
    alone = found["alone"]
    best = {b: {name: min(own) for name, own in each.items()} for b, each in times.items()}

    def milliseconds(b, name):
        return f"{best[b][name] * 1e3:.0f} ({best[b]['dense'] / best[b][name]:.2f}x)"

    head = ["removed of each group", "units", "parameters", "MFLOPs", "difference"]
    head += [f"ms, batch of {b}" for b in best] + [f"plain Flax, batch of {b}" for b in best]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        name = f"{row['sparsity']:.0%}" if row["sparsity"] else "dense"
        cells = [f"{row['sparsity']:.0%}", f"{row['units']:,}", f"{row['params']:,}"]
        cells += [f"{row['flops'] / 1e6:.1f}"]
        cells += [f"{row['difference']:.1e}" if "difference" in row else ""]
        cells += [milliseconds(b, name) for b in best]
        cells += [milliseconds(b, f"{name}, native") if row["sparsity"] else "" for b in best]
        lines.append("| " + " | ".join(cells) + " |")
    points = [
        f"Weights: {found['tensors']} tensors. {found['tensors'] - found['counters']} are the model's "
        f"{found['leaves']} leaves, {found['counters']} count batches, which Flax does not; none is "
        "left over.",
        f"Inputs: {found['inputs']}, 224x224. The most likely class of the first is number "
        f"{found['class of the first input']}.",
    ]
    if "torch" in found:
        own = found["torch"]
        points.append(
            f"Beside PyTorch's port ({own['version']}): logits differ by {own['difference']:.1e} of "
            f"the largest, the most likely class is the same for {own['same class']} of "
            f"{own['inputs']} inputs."
        )
    worst = max(alone, key=alone.get)
    native = max(row["difference from native"] for row in rows[1:])
    seconds = " and ".join(f"{row['seconds to prune and shrink']:.1f}" for row in rows[1:])
    points += [
        f"{len(found['groups'])} groups of {sum(found['groups'].values()):,} coupled units, traced in "
        f"{found['seconds to trace']:.1f} s; pruned and shrunk in {seconds} s.",
        f"Half of each group alone (`structured.verify`): {alone[worst]:.1e} at most (`{worst}`).",
        "A plain Flax model of the small widths takes the shrunk parameters as they are and gives the "
        f"same logits{f' to {native:.1e}' if native else ', bit for bit'}.",
    ]
    bullets = "\n".join(f"- {point}" for point in points)
    table = "\n".join(lines)
    rounds = " and ".join(str(len(each["dense"])) for each in times.values())
    again = ", ".join(f"{b}: {best[b]['dense'] / best[b]['dense again']:.2f}x" for b in best)
    return f"""# EfficientNet-Lite0 with its ImageNet weights, made smaller

Written by `python -m benchmarks.efficientnet_lite0`. Units go by magnitude, nothing is trained afterwards,
and ImageNet is not available here: these are sizes, times and equality, not accuracy.

{bullets}

{table}

Differences are the largest between logits over the largest logit; "difference" is that between the small
network and the whole one with zeros in place of what is gone. Operations are of one image. Times are the best
of {rounds} in turns on {machine["cores"]} cores shared with other work ({machine["processor"]}), in
brackets how many times as fast as dense; dense against itself, by batch: {again}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--torch_python", help="an interpreter with efficientnet-lite-pytorch")
    args = parser.parse_args()
    found = measured(args.torch_python)
    write(args.out / f"{NAME}.json", found, "flax")
    text = report(found, hardware())
    (args.out / f"{NAME}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
