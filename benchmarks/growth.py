"""How costs grow: with the weights, with the leaves, and with the devices.

Each cost is taken at sizes that are about ten times apart, and the exponent of the straight line through them
on logarithmic axes is fitted: 1 is proportional, 0 does not grow. Seconds are medians of interleaved rounds;
compile time is in CPU seconds of all threads, one compilation each; messages are counted in the compiled
program, for host devices that share the cores (their seconds would say nothing).

Run: python -m benchmarks.growth   (writes results/benchmarks/growth.json, .md and .png)
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from benchmarks import _timing
from benchmarks._compiled import compiled
from experiments.reports.markdown import table
from jaxprune.selection import top, top_each

WEIGHTS = (10**5, 10**6, 10**7)
LEAVES = (2, 20, 200)
DEVICES = (2, 4, 8)
LIMIT = "mask pass"
COLUMNS = ("cost", "at", "values", "exponent")


def seconds_of_weights(sizes: tuple[int, ...], rounds: int) -> dict[str, dict[int, float]]:
    """Returns cost -> weights -> seconds to find the masks of the largest tenth."""
    seconds_by_cost: dict[str, dict[int, float]] = {}
    for size in sizes:
        rng = np.random.default_rng(0)
        shares = (0.6, 0.3, 0.1)
        leaves = [
            jnp.asarray(np.abs(rng.standard_normal((int(size * share) // 100, 100), np.float32)))
            for share in shares
        ]
        counts = [leaf.size // 10 for leaf in leaves]
        total = sum(counts)
        functions: dict[str, Callable] = {
            LIMIT: jax.jit(lambda xs: [scores >= 1.645 for scores in xs]),
            "global selection": jax.jit(lambda xs, keep_count=total: top(xs, keep_count)),
            "selection of each leaf": jax.jit(
                lambda xs, keep_counts=tuple(counts): top_each(xs, keep_counts)
            ),
        }
        thunks = {
            name: lambda function=function, xs=leaves: function(xs)
            for name, function in functions.items()
        }
        for name, timing in _timing.interleave(thunks, LIMIT, rounds).items():
            if not name.endswith("again"):
                seconds_by_cost.setdefault(name, {})[size] = timing.seconds
    return seconds_by_cost


def compile_time_of_leaves(numbers: tuple[int, ...]) -> dict[str, dict[int, float]]:
    """Returns cost -> leaves -> CPU seconds to compile an update of leaves of one shape."""
    adam = optax.adam(1e-3)
    gradual = jp.methods.gmp(sparsity=0.9, begin=0, end=1_000, every=100)
    seconds_by_cost: dict[str, dict[int, float]] = {}
    for name, transform in {"dense": adam, "GMP": jp.sparsify(adam, gradual)}.items():
        for leaf_count in numbers:
            leaf = jax.ShapeDtypeStruct((256, 256), jnp.float32)
            params = {f"layer_{leaf_index:03}": leaf for leaf_index in range(leaf_count)}
            program = compiled(
                transform.update, params, jax.eval_shape(transform.init, params), params
            )
            seconds_by_cost.setdefault(f"compile time, {name}", {})[leaf_count] = program.seconds
    return seconds_by_cost


def messages_of_devices(numbers: tuple[int, ...]) -> dict[str, dict[int, float]]:
    """Returns cost -> devices -> collective operations in the program of a global selection."""
    messages_by_cost: dict[str, dict[int, float]] = {}
    for device_count in numbers:
        output = subprocess.run(
            [sys.executable, "-m", "benchmarks.growth", "--messages", str(device_count)],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        ).stdout
        for name, value in json.loads(output.splitlines()[-1]).items():
            messages_by_cost.setdefault(name, {})[device_count] = value
    return messages_by_cost


def messages(number: int) -> dict[str, int]:
    """Counts collective operations of a selection on so many host devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", number)
    mesh = jax.make_mesh((number,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    row_sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    leaves = [
        jax.ShapeDtypeStruct((1024, 64), jnp.float32, sharding=row_sharding) for _ in range(3)
    ]
    with jax.set_mesh(mesh):
        program_text = jax.jit(lambda xs: top(xs, 1000)).lower(leaves).compile().as_text()
    collective = r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\("
    moved_numbers = [
        (name, _numbers_in(result_type))
        for result_type, name in re.findall(collective, program_text)
    ]
    reduced_numbers = [numbers for name, numbers in moved_numbers if name == "all-reduce"]
    other_numbers = [numbers for name, numbers in moved_numbers if name != "all-reduce"]
    return {
        "all-reduces in the program": len(reduced_numbers),
        "numbers in the largest of them": max(reduced_numbers, default=0),
        "other collectives in the program": len(other_numbers),
        "numbers in the largest of those": max(other_numbers, default=0),
    }


def _numbers_in(kind: str) -> int:
    """How many numbers an operation with results of this type moves."""
    shapes = re.findall(r"\w+\[([\d,]*)\]", kind)
    return sum(
        int(np.prod([int(size) for size in shape.split(",") if size] or [1])) for shape in shapes
    )


def exponent(costs: Mapping[int, float]) -> float | None:
    """Returns the slope of log(cost) over log(size); `None` where a cost is zero."""
    if min(costs.values()) <= 0:
        return None
    return float(np.polyfit(np.log(list(costs)), np.log(list(costs.values())), 1)[0])


def plot(costs_by_kind: Mapping[str, Mapping[str, Mapping[int, float]]], path: Path) -> None:
    """Draws each kind of growth on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(costs_by_kind), 3.5), layout="constrained")
    for axes, (kind, costs) in zip(
        figure.subplots(1, len(costs_by_kind), squeeze=False)[0], costs_by_kind.items(), strict=True
    ):
        for name, values in costs.items():
            if min(values.values()) > 0:
                axes.loglog(list(values), list(values.values()), marker="o", label=name)
        axes.set_xlabel(kind)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Writes the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small sizes, to try it out")
    parser.add_argument("--messages", type=int, help="print the messages on so many devices")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder")
    arguments = parser.parse_args()
    if arguments.messages:
        print(json.dumps(messages(arguments.messages)))
        return
    weights, leaves = ((10**4, 10**5), (2, 4)) if arguments.quick else (WEIGHTS, LEAVES)
    costs_by_kind = {
        "weights": seconds_of_weights(weights, arguments.rounds),
        "leaves": compile_time_of_leaves(leaves),
        "devices": messages_of_devices(DEVICES),
    }
    exponents = {
        kind: {name: exponent(values) for name, values in costs.items()}
        for kind, costs in costs_by_kind.items()
    }
    rows = []
    for kind, costs in costs_by_kind.items():
        for name, values in costs.items():
            slope = exponents[kind][name]
            sizes_text = ", ".join(f"{problem_size:,}" for problem_size in values)
            numbers = ", ".join(f"{value:.3g}" for value in values.values())
            rows.append(
                [
                    f"{name}, over {kind}",
                    sizes_text,
                    numbers,
                    "" if slope is None else f"{slope:.2f}",
                ]
            )
    hardware = _timing.hardware()
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(
        [
            "# How costs grow\n",
            f"Written by `python -m benchmarks.growth`: {_timing.hardware_line(hardware)}.\n",
            "Selections and mask passes in seconds (medians of interleaved rounds), compile time in CPU "
            "seconds, messages as counted in the program. An exponent of 1 is proportional, of 0 constant.\n",
            table(COLUMNS, rows),
            "\n![growth](growth.png)\n",
        ]
    )
    (arguments.out / "growth.md").write_text(text)
    plot(costs_by_kind, arguments.out / "growth.png")
    _timing.write(arguments.out / "growth.json", {"costs": costs_by_kind, "exponents": exponents})
    print(text)


if __name__ == "__main__":
    main()
