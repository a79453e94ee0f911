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


def operations(function: Any, variables: Any) -> int:
    """Of one image."""
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return sum(jax.tree.leaves(jp.metrics.flops(function, variables, image)))


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference over the largest size."""
    ours = np.asarray(ours)
    theirs = np.asarray(theirs)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def narrow(share: float) -> Any:
    """The network with a share of all its widths, built as any Flax model is."""
    stages = tuple(stage._replace(filters=round(stage.filters * share)) for stage in MODEL.stages)
    return MODEL.clone(stages=stages, stem=round(32 * share), head=round(1280 * share))


def images() -> tuple[np.ndarray, str]:
    """Eight inputs, scaled to about [-1, 1]: a photo and its mirror image if there is one, and noise."""
    rng = np.random.default_rng(0)
    image_list = [rng.uniform(0, 255, (SIDE, SIDE, 3)) for _ in range(8)]
    description = "uniform noise"
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
        image_list[0] = np.asarray(photo, np.float64)
        image_list[1] = image_list[0][:, ::-1]
        description = "a photo (matplotlib's grace_hopper.jpg), its mirror image, and uniform noise"
    return ((np.stack(image_list) - 127) / 128).astype(np.float32), description


def beside_torch(python: str, weights: Path, variables: Any, inputs: np.ndarray) -> dict[str, Any]:
    """Compares logits with those of PyTorch in another interpreter, on these inputs and on normal noise."""
    noise = np.random.default_rng(1).standard_normal((4, SIDE, SIDE, 3)).astype(np.float32)
    inputs = np.concatenate([inputs, noise])
    with tempfile.TemporaryDirectory() as folder:
        inputs_file = Path(folder, "inputs.npy")
        outputs_file = Path(folder, "outputs.npy")
        np.save(inputs_file, inputs)
        command = [python, "-c", TORCH, str(weights), str(inputs_file), str(outputs_file)]
        version = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        theirs = np.load(outputs_file)
    ours = np.asarray(jax.jit(MODEL.apply)(variables, inputs))
    same_class_count = int((ours.argmax(1) == theirs.argmax(1)).sum())
    return {
        "version": version.strip(),
        "difference": difference(ours, theirs),
        "inputs": len(inputs),
        "same class": same_class_count,
    }


def measured(torch_python: str | None, rounds: dict[int, int] = ROUNDS) -> dict[str, Any]:
    path = jp.data.fetch_weights(NAME)
    tensors = jp.data.load_weights(NAME)
    variables = jax.tree.map(jnp.asarray, jp.nn.efficientnet_lite0_from_torch(tensors))
    inputs, inputs_text = images()
    dense = jax.jit(MODEL.apply)
    logits = dense(variables, inputs)
    counters = sum(name.endswith("num_batches_tracked") for name in tensors)
    figures: dict[str, Any] = {
        "tensors": len(tensors),
        "counters": counters,
        "leaves": len(jax.tree.leaves(variables)),
        "inputs": inputs_text,
        "class of the first input": int(logits[0].argmax()),
    }
    if torch_python:
        figures["torch"] = beside_torch(torch_python, path, variables, inputs)

    start = time.perf_counter()
    graph = jp.structured.trace(MODEL.apply, variables, inputs[:1])
    figures["seconds to trace"] = time.perf_counter() - start
    figures["groups"] = {group.name: group.size for group in graph.groups}
    figures_by_sparsity: list[dict[str, Any]] = [
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
        native_apply = jax.jit(narrow(1 - sparsity).apply)
        masked_logits = dense(jp.masks.apply(variables, masks), inputs)
        small_logits = apply(small.params, inputs)
        small_graph = jp.structured.trace(small.apply, small.params, inputs[:1])
        sparsity_figures = {
            "sparsity": sparsity,
            "units": sum(group.size for group in small_graph.groups),
            "params": size(small.params["params"]),
            "flops": operations(small.apply, small.params),
            "difference": difference(small_logits, masked_logits),
            "difference from native": difference(small_logits, native_apply(small.params, inputs)),
            "seconds to prune and shrink": seconds,
        }
        figures_by_sparsity.append(sparsity_figures)
        thunks[f"{sparsity:.0%}"] = (apply, small.params)
        thunks[f"{sparsity:.0%}, native"] = (native_apply, small.params)
        print(sparsity_figures, flush=True)
    figures["times"] = {}
    for batch, count in rounds.items():
        batch_inputs = jnp.asarray(inputs[:batch])
        batch_thunks = {
            name: lambda function=function, params=params, batch_inputs=batch_inputs: function(
                params, batch_inputs
            )
            for name, (function, params) in thunks.items()
        }
        timings = interleave(batch_thunks, rounds=count)
        figures["times"][str(batch)] = {name: timing.rounds for name, timing in timings.items()}
    figures["rows"] = figures_by_sparsity
    start = time.perf_counter()
    figures["alone"] = jp.structured.verify(graph, variables, inputs[:1])
    figures["seconds to verify"] = time.perf_counter() - start
    return figures


def report(figures: dict[str, Any], machine: dict[str, Any]) -> str:
    rows = figures["rows"]
    times = figures["times"]
    error_of_group = figures["alone"]
    least_seconds = {
        batch: {name: min(round_seconds) for name, round_seconds in seconds_by_name.items()}
        for batch, seconds_by_name in times.items()
    }

    def milliseconds(batch, name):
        least = least_seconds[batch]
        return f"{least[name] * 1e3:.0f} ({least['dense'] / least[name]:.2f}x)"

    head = ["removed of each group", "units", "parameters", "MFLOPs", "difference"]
    head += [f"ms, batch of {batch}" for batch in least_seconds] + [
        f"plain Flax, batch of {batch}" for batch in least_seconds
    ]
    table_lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        name = f"{row['sparsity']:.0%}" if row["sparsity"] else "dense"
        cells = [f"{row['sparsity']:.0%}", f"{row['units']:,}", f"{row['params']:,}"]
        cells += [f"{row['flops'] / 1e6:.1f}"]
        cells += [f"{row['difference']:.1e}" if "difference" in row else ""]
        cells += [milliseconds(batch, name) for batch in least_seconds]
        cells += [
            milliseconds(batch, f"{name}, native") if row["sparsity"] else ""
            for batch in least_seconds
        ]
        table_lines.append("| " + " | ".join(cells) + " |")
    notes = [
        f"Weights: {figures['tensors']} tensors. {figures['tensors'] - figures['counters']} are the model's "
        f"{figures['leaves']} leaves, {figures['counters']} count batches, which Flax does not; none is "
        "left over.",
        f"Inputs: {figures['inputs']}, 224x224. The most likely class of the first is number "
        f"{figures['class of the first input']}.",
    ]
    if "torch" in figures:
        torch_figures = figures["torch"]
        notes.append(
            f"Beside PyTorch's port ({torch_figures['version']}): logits differ by "
            f"{torch_figures['difference']:.1e} of "
            f"the largest, the most likely class is the same for {torch_figures['same class']} of "
            f"{torch_figures['inputs']} inputs."
        )
    worst_group = max(error_of_group, key=error_of_group.get)
    native_difference = max(row["difference from native"] for row in rows[1:])
    seconds = " and ".join(f"{row['seconds to prune and shrink']:.1f}" for row in rows[1:])
    notes += [
        f"{len(figures['groups'])} groups of {sum(figures['groups'].values()):,} coupled units, traced in "
        f"{figures['seconds to trace']:.1f} s; pruned and shrunk in {seconds} s.",
        f"Half of each group alone (`structured.verify`): {error_of_group[worst_group]:.1e} at most "
        f"(`{worst_group}`).",
        "A plain Flax model of the small widths takes the shrunk parameters as they are and gives the "
        f"same logits{f' to {native_difference:.1e}' if native_difference else ', bit for bit'}.",
    ]
    bullets = "\n".join(f"- {point}" for point in notes)
    table = "\n".join(table_lines)
    rounds = " and ".join(str(len(seconds_by_name["dense"])) for seconds_by_name in times.values())
    again = ", ".join(
        f"{batch}: {least_seconds[batch]['dense'] / least_seconds[batch]['dense again']:.2f}x"
        for batch in least_seconds
    )
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
