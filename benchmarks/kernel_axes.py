"""What `jaxprune.axes` finds in the layers of four frameworks, and how long it takes for a language model.

Run: python -m benchmarks.kernel_axes
"""

import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from benchmarks._kernels import CASES, Case
from jaxprune.kernel_axes import by_position

RESULTS = Path("results/benchmarks")
SHAPE = {"layers": 22, "width": 2048, "heads": 32, "groups": 4, "hidden": 5632, "words": 32_000}


def row(case: Case) -> dict[str, Any]:
    """What is expected of one case, what the program says, and what shapes alone would."""
    axes_tree = jp.axes(case.apply, case.params, case.x)
    names = jp.masks.paths(case.params)
    axes_by_path = dict(zip(names, jp.masks.beside(case.params, axes_tree), strict=True))
    shapes = dict(zip(names, map(jnp.shape, jax.tree.leaves(case.params)), strict=True))

    def axis_triple(axes):
        return None if axes is None else (axes.in_axis, axes.out_axis, axes.batch_axis)

    kernels = {
        path: axis_triple(leaf_axes)
        for path, leaf_axes in axes_by_path.items()
        if leaf_axes is not None
    }
    triples_by_shape = {path: axis_triple(by_position(shapes[path])) for path in case.expected}
    return {
        "kernels": len(case.expected),
        "found": sum(kernels.get(path) == expected for path, expected in case.expected.items()),
        "others": sorted(set(kernels) - set(case.expected)),
        "by shape": sum(
            triples_by_shape[path] == expected for path, expected in case.expected.items()
        ),
        "refused": sum(triples_by_shape[path][0] is None for path in case.expected),
        "axes": {path: kernels.get(path) for path in case.expected},
        "shapes": {path: shapes[path] for path in case.expected},
    }


def language_model() -> tuple[Any, Any, Any]:
    """A decoder like LLaMA, 1.1 billion parameters, its layers under a scan: function, shapes, tokens."""
    layers, width, heads, groups, hidden, words = SHAPE.values()
    head_dim = width // heads

    def normalize(x: jax.Array, gain: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * gain[None, None]

    def rotate(x: jax.Array) -> jax.Array:
        angle = (
            jnp.arange(x.shape[1])[:, None] * 1e4 ** (-jnp.arange(0, head_dim, 2) / head_dim)[None]
        )
        cos = jnp.cos(angle)[None, :, None]
        sin = jnp.sin(angle)[None, :, None]
        first_half = x[..., : head_dim // 2]
        second_half = x[..., head_dim // 2 :]
        return jnp.concatenate(
            [first_half * cos - second_half * sin, second_half * cos + first_half * sin], -1
        )

    def block(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
        normalized = normalize(x, params["before"])
        query, key, value = (
            jnp.einsum("btd,dhk->bthk", normalized, params[name]) for name in "qkv"
        )
        query = rotate(query).reshape(*x.shape[:2], groups, heads // groups, head_dim)
        scores = jnp.einsum("btgrd,bsgd->bgrts", query, rotate(key)) / head_dim**0.5
        weights = jax.nn.softmax(scores, -1)
        attended = jnp.einsum("bgrts,bsgd->btgrd", weights, value).reshape(
            *x.shape[:2], heads, head_dim
        )
        x = x + jnp.einsum("bthk,hkd->btd", attended, params["o"])
        normalized = normalize(x, params["after"])
        return x + (
            jax.nn.silu(normalized @ params["gate"]) * (normalized @ params["up"])
        ) @ params["down"], None

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(jax.checkpoint(block), params["embedding"][tokens], params["layers"])
        return normalize(x, params["norm"]) @ params["embedding"].T

    kernels = {
        "q": (width, heads, head_dim),
        "k": (width, groups, head_dim),
        "v": (width, groups, head_dim),
        "o": (heads, head_dim, width),
        "gate": (width, hidden),
        "up": (width, hidden),
        "down": (hidden, width),
        "before": (width,),
        "after": (width,),
    }

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    stacked = {name: array(layers, *shape) for name, shape in kernels.items()}
    params = {"embedding": array(words, width), "norm": array(width), "layers": stacked}
    return apply, params, jax.ShapeDtypeStruct((1, 2048), jnp.int32)


def timed() -> dict[str, Any]:
    """CPU seconds of finding the axes of the language model: the first time, and again."""
    apply, params, tokens = language_model()
    seconds = []
    for _ in range(3):
        start = time.process_time()
        axes_tree = jp.axes(apply, params, tokens)
        seconds.append(round(time.process_time() - start, 3))
    kernels = [
        leaf_axes
        for leaf_axes in jp.masks.beside(params, axes_tree)
        if leaf_axes is not None and leaf_axes.use == "kernel"
    ]
    parameter_count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"parameters": parameter_count, "kernels": len(kernels), "cpu_seconds": seconds}


def grouped() -> dict[str, dict[str, str]]:
    """What 2:4 and Wanda's comparison per output keep, on kernels that are not [inputs, outputs]."""
    key = jax.random.key(0)
    x = jax.random.normal(jax.random.key(1), (2, 8, 32))

    def normal(*shape):
        return jax.random.normal(key, shape)

    def scan(params, x):
        return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, params["w"])[0]

    # name: (function, kernel, its axes of inputs, of outputs, of layers)
    kernels = {
        "attention query, [inputs, heads, head_dim]": (
            lambda params, x: jnp.einsum("btd,dhk->bthk", x, params["w"]),
            normal(32, 4, 8),
            ((0,), (1, 2), ()),
        ),
        "attention out, [heads, head_dim, outputs]": (
            lambda params, x: jnp.einsum("bthk,hkd->btd", x.reshape(2, 8, 4, 8), params["w"]),
            normal(4, 8, 32),
            ((0, 1), (2,), ()),
        ),
        "heads first, [heads, inputs, head_dim]": (
            lambda params, x: jnp.einsum("btd,hdk->bthk", x, params["w"]),
            normal(4, 32, 8),
            ((1,), (0, 2), ()),
        ),
        "stored [outputs, inputs]": (
            lambda params, x: x @ params["w"].T,
            normal(32, 32),
            ((1,), (0,), ()),
        ),
        "scanned, stacked along axis 1": (
            lambda params, x: scan({"w": jnp.moveaxis(params["w"], 1, 0)}, x),
            normal(32, 4, 32),
            ((0,), (2,), (1,)),
        ),
        "scanned, stored [layers, outputs, inputs]": (
            lambda params, x: scan({"w": jnp.swapaxes(params["w"], 1, 2)}, x),
            normal(3, 32, 32),
            ((2,), (1,), (0,)),
        ),
        "fused query, key and value, [3, heads, inputs, head_dim]": (
            lambda params, x: jnp.einsum("btd,shdk->sbthk", x, params["w"]),
            normal(3, 4, 32, 8),
            ((2,), (0, 1, 3), ()),
        ),
        "experts, [inputs, experts, outputs]": (
            lambda params, x: jnp.einsum("ecd,def->ecf", jnp.stack([x[0]] * 4), params["w"]),
            normal(32, 4, 32),
            ((0,), (2,), (1,)),
        ),
    }
    return {name: _kept(*case, x) for name, case in kernels.items()}


def _kept(apply: Any, kernel: jax.Array, order: Any, x: jax.Array) -> dict[str, str]:
    """What is kept of one kernel; `order` is its axes of inputs, of outputs and of layers."""
    input_axes, output_axes, layers = order
    params = {"w": kernel}
    axes = jp.axes(apply, params, x)
    moments = jp.signals.input_moments(apply, params, [x])

    def rows(pattern: Any, given_axes: Any) -> jax.Array:
        """The mask with the inputs of one output in each row."""
        schedule = jp.schedules.one_shot(sparsity=0.5)
        method = jp.Method(jp.criteria.wanda, schedule=schedule, pattern=pattern)
        _, masks = jp.prune(params, method, axes=given_axes, input_moments=moments, prunable="w")
        return masks["w"].transpose(*layers, *output_axes, *input_axes).reshape(-1, 32)

    def figures(group_pattern: Any, input_pattern: Any, given_axes: Any) -> str:
        try:
            exact_share = (rows(group_pattern, given_axes).reshape(-1, 4).sum(1) == 2).mean()
            counts = rows(input_pattern, given_axes).sum(1)
        except ValueError:
            return "refused"
        return f"{exact_share:.0%}, {int(counts.min())} to {int(counts.max())}"

    by_position = (jp.patterns.groups(4, axis=-2), jp.patterns.groups(axis=-2))
    return {
        "axes": figures(jp.patterns.groups(4), jp.patterns.groups(), axes),
        "position": figures(*by_position, None),
    }


def main() -> None:
    """Writes the table."""
    rows = {name: row(make_case()) for name, make_case in CASES.items()}
    groups = grouped()
    model = timed()
    RESULTS.mkdir(parents=True, exist_ok=True)
    setting = {
        "jax": jax.__version__,
        "cpu": platform.processor() or platform.machine(),
        "language_model": model,
        "rows": rows,
        "groups": groups,
    }
    (RESULTS / "kernel_axes.json").write_text(json.dumps(setting, indent=1) + "\n")
    totals = {
        key: sum(row_figures[key] for row_figures in rows.values())
        for key in ("kernels", "found", "by shape", "refused")
    }
    lines = [
        "# Kernels whose axes are found",
        "",
        f"`jaxprune.axes` on {len(rows)} layers of linen, NNX, Haiku, Equinox and plain JAX: "
        f"{totals['found']} of {totals['kernels']} kernels have the right inputs, outputs and layers. "
        f"From shapes alone {totals['by shape']} would, {totals['refused']} are refused in words, and "
        f"{totals['kernels'] - totals['by shape'] - totals['refused']} would be taken for something else.",
        "",
        f"A decoder like LLaMA with {model['parameters']:,} parameters, its layers under a scan, takes "
        f"{model['cpu_seconds'][0]} CPU seconds the first time and {model['cpu_seconds'][-1]} again "
        f"(JAX {setting['jax']}, one core).",
        "",
        "| layer | kernel | shape | inputs | outputs | layers | right | by shape alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row_figures in rows.items():
        for kernel, axes in row_figures["axes"].items():
            expected = CASES[name]().expected[kernel]
            shape_axes = by_position(row_figures["shapes"][kernel])
            by_shape = (shape_axes.in_axis, shape_axes.out_axis, shape_axes.batch_axis) == expected
            shape_verdict = (
                "right" if by_shape else "refused" if shape_axes.in_axis is None else "wrong"
            )
            shown = (
                ["none"] * 3
                if axes is None
                else [", ".join(map(str, axis_numbers)) or "" for axis_numbers in axes]
            )
            shape = "x".join(map(str, row_figures["shapes"][kernel]))
            is_found = "yes" if axes == expected else "no"
            lines.append(
                f"| {name} | `{kernel}` | {shape} | {' | '.join(shown)} | {is_found} | {shape_verdict} |"
            )
    lines += [
        "",
        "## 2:4 and Wanda on kernels that are not [inputs, outputs]",
        "",
        "Which share of the groups of 4 inputs keeps 2 (`groups(4)` at 0.5), and how many of 32 inputs the "
        "outputs keep (`groups()` at 0.5: 16 each if outputs are compared). By position: along axis -2, "
        "as all patterns ran before there were axes.",
        "",
        "| kernel | with axes | by position |",
        "|---|---|---|",
        *(f"| {name} | {kept['axes']} | {kept['position']} |" for name, kept in groups.items()),
    ]
    (RESULTS / "kernel_axes.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[:5]))


if __name__ == "__main__":
    main()
