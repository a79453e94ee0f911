"""Memory and compile time of the compiled update of each method, beside the dense update's.

Programs are compiled from shapes alone, with Adam, and never run: for 200 leaves, for 3 large ones, for a
few mixed shapes, and for a whole step of the MLP of `benchmarks.train_step`. Memory is XLA's own account, in
sizes of the parameters, less the dense program's: what the method stores (arguments) and what its program
needs besides (temporaries). The bar for temporaries is dense + masks + 5 % of the parameters; whether all
that the method stores fits under it too is a column of its own, as some store more by intent (SNFS a
momentum, a lottery ticket its rewinding point). Compile time is in CPU seconds of all threads, beside dense;
dense is compiled once more, as the noise floor.

Run: python -m benchmarks.footprint   (writes results/benchmarks/footprint.json and .md)
     python -m benchmarks.footprint --quick --only mixed --out /tmp
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from benchmarks import _timing
from benchmarks._compiled import Program, compiled, sizes
from benchmarks.train_step import mlp
from experiments.reports.markdown import table

MASKS = 1 / 4  # one byte per float32
SPARE = 0.05  # of the parameters
STEP = "MLP, whole step"
UPDATE = "200 leaves"
COMPILE_BARS = {STEP: 2.0, UPDATE: 3.0}  # times dense
SIDES = ((256, 256), (256, 512), (512, 512), (512, 1024), (1024, 1024))
COLUMNS = (
    "method",
    "stored",
    "temporaries",
    "bar",
    "temporaries hold",
    "with all stored",
    "compile, CPU s",
    "x dense",
    "bar",
    "holds",
)


def trees(quick: bool) -> dict[str, Any]:
    """Returns name -> parameters, as shapes; small ones to try the benchmark out."""

    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    leaf_count, side_length = (10, 512) if quick else (200, 4096)
    mixed_shapes = {
        "conv": leaf(3, 3, 64, 128),
        "kernel": leaf(784, 300),
        "bias": leaf(300),
        "head": leaf(300, 12),
        "scale": leaf(),
    }
    return {
        f"{leaf_count} leaves": {
            f"layer_{leaf_index:03}": leaf(*SIDES[leaf_index % len(SIDES)])
            for leaf_index in range(leaf_count)
        },
        "3 large leaves": {
            f"layer_{leaf_index}": leaf(side_length, side_length) for leaf_index in range(3)
        },
        "mixed shapes": mixed_shapes,
    }


def transforms(inner: optax.GradientTransformation) -> dict[str, Any]:
    """Returns name -> transform; dense twice."""
    methods = jp.methods
    draw_key = jax.random.key(0)
    gradual = {"begin": 0, "end": 1_000, "every": 100}
    moving = {"every": 100, "end": 1_000}
    ticket = jp.lottery.Plan(round_steps=100, rounds=3)
    by_fours = methods.magnitude(sparsity=0.5, pattern=jp.patterns.groups(4))

    def drawn(method):
        return jp.sparsify(inner, method, key=draw_key)

    return {
        "dense": inner,
        "dense again": inner,
        "GMP": jp.sparsify(inner, methods.gmp(sparsity=0.9, **gradual)),
        "GMP, global budget": jp.sparsify(inner, methods.global_magnitude(sparsity=0.9, **gradual)),
        "RigL": drawn(methods.rigl(sparsity=0.9, **moving)),
        "SET": drawn(methods.set_(sparsity=0.9, **moving)),
        "SNFS": drawn(methods.snfs(sparsity=0.9, **moving)),
        "2:4": jp.sparsify(inner, by_fours),
        "STE": jp.straight_through(inner, methods.ste(sparsity=0.9, end=1_000)),
        "lottery ticket": jp.lottery_ticket(inner, methods.magnitude(sparsity=0.2), ticket),
        "SR-STE": jp.straight_through(inner, methods.sr_ste(sparsity=0.5, end=1_000)),
    }


def of_update(transform: Any, params: Any) -> Program:
    """Compiles the update of a transform alone."""
    return compiled(transform.update, params, jax.eval_shape(transform.init, params), params)


def of_step(transform: Any, params: Any, loss: Callable[[Any], jax.Array]) -> Program:
    """Compiles a whole step of training, donated."""

    def step(params: Any, state: Any) -> Any:
        grads = jax.grad(loss)(jp.forward_params(params, state))
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return compiled(step, params, jax.eval_shape(transform.init, params), donate_argnums=(0, 1))


def compare(
    transform_by_name: dict[str, Any],
    params: Any,
    program: Callable[..., Program],
    bar: float | None,
) -> dict[str, Any]:
    """Compiles each transform's program; the first is dense."""
    program(next(iter(transform_by_name.values())), params)  # XLA's own start is not dense's
    programs: dict[str, Program] = {}
    for name, transform in transform_by_name.items():
        programs[name] = program(transform, params)
        print(f"  {name:<20}{programs[name].seconds:8.2f} CPU s", flush=True)
    weight_bytes = sizes(params)
    return {
        name: row(compiled_program, programs["dense"], weight_bytes, bar)
        for name, compiled_program in programs.items()
    }


def row(program: Program, dense: Program, weights: int, bar: float | None) -> dict[str, Any]:
    """Returns what one program costs beyond the dense one, in sizes of the parameters."""
    stored = (program.arguments - dense.arguments) / weights
    temporaries = (program.temporaries - dense.temporaries) / weights
    ratio = program.seconds / dense.seconds
    return {
        "argument_bytes": program.arguments,
        "temporary_bytes": program.temporaries,
        "stored": stored,
        "temporaries": temporaries,
        "memory_bar": MASKS + SPARE,
        "temporaries_hold": temporaries <= MASKS + SPARE,
        "all_hold": stored + temporaries <= MASKS + SPARE,
        "compile_seconds": program.seconds,
        "compile_ratio": ratio,
        "compile_bar": bar,
        "compile_holds": None if bar is None else ratio <= bar,
    }


def report(found: dict[str, Any], hardware: dict[str, Any]) -> str:
    """Returns the tables as Markdown."""
    parts = [
        "# Memory and compile time of an update\n",
        f"Written by `python -m benchmarks.footprint`: {_timing.hardware_line(hardware)}.\n",
        "Memory is in sizes of the parameters, less the dense program's. Stored: arguments, with masks and "
        "all other state. The bar is masks (a byte per weight) + 5 % of the parameters. Of updates alone "
        "nothing is donated, so that results may lie in memory of their own and serve as temporaries "
        "until they are written; the whole step's parameters and state are donated. Each program is "
        "compiled once.\n",
    ]
    for name, rows in found.items():
        parts += [
            f"## {name}\n",
            table(
                COLUMNS,
                [
                    cells(method_name, method_figures)
                    for method_name, method_figures in rows.items()
                ],
            ),
            "",
        ]
    return "\n".join(parts)


def cells(name: str, figures: dict[str, Any]) -> list[str]:
    """Returns one row of the table."""
    bar = figures["compile_bar"]
    is_dense = name.startswith("dense")
    return [
        name,
        f"{figures['stored']:.3f}",
        f"{figures['temporaries']:.3f}",
        f"{figures['memory_bar']:.2f}",
        "" if is_dense else verdict(figures["temporaries_hold"]),
        "" if is_dense else verdict(figures["all_hold"]),
        f"{figures['compile_seconds']:.2f}",
        f"{figures['compile_ratio']:.2f}",
        "" if bar is None else f"<= {bar:g}",
        "" if is_dense else verdict(figures["compile_holds"]),
    ]


def verdict(holds: bool | None) -> str:
    """Returns what the table says of a bar; `None`: there is none."""
    return {None: "", True: "yes", False: "no"}[holds]


def main() -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="part of a tree's name")
    parser.add_argument("--methods", nargs="*", help="some of the methods; dense is always there")
    parser.add_argument("--quick", action="store_true", help="small trees, to try it out")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder")
    arguments = parser.parse_args()
    wanted_methods = arguments.methods
    adam = optax.adam(1e-3)
    transform_by_name = {
        name: transform
        for name, transform in transforms(adam).items()
        if wanted_methods is None or name in wanted_methods or name.startswith("dense")
    }
    figures = {}
    for name, params in trees(arguments.quick).items():
        if arguments.only in name:
            print(name, flush=True)
            figures[name] = compare(transform_by_name, params, of_update, COMPILE_BARS.get(name))
    if arguments.only in STEP:
        print(STEP, flush=True)
        params, loss, _ = mlp()

        def step(transform, params):
            return of_step(transform, params, loss)

        figures[STEP] = compare(transform_by_name, params, step, COMPILE_BARS[STEP])
    results = {"quick": arguments.quick, "trees": figures}
    _timing.write(arguments.out / "footprint.json", results, "optax")
    text = report(figures, _timing.hardware("optax"))
    (arguments.out / "footprint.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
