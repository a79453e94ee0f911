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
    found = jp.axes(case.apply, case.params, case.x)
    names = jp.masks.paths(case.params)
    own = dict(zip(names, jp.masks.beside(case.params, found), strict=True))
    shapes = dict(zip(names, map(jnp.shape, jax.tree.leaves(case.params)), strict=True))

    def three(axes):
        return None if axes is None else (axes.in_axis, axes.out_axis, axes.batch_axis)

    kernels = {n: three(a) for n, a in own.items() if a is not None}
    told = {n: three(by_position(shapes[n])) for n in case.expected}
    return {
        "kernels": len(case.expected),
        "found": sum(kernels.get(n) == e for n, e in case.expected.items()),
        "others": sorted(set(kernels) - set(case.expected)),
        "by shape": sum(told[n] == e for n, e in case.expected.items()),
        "refused": sum(told[n][0] is None for n in case.expected),
        "axes": {n: kernels.get(n) for n in case.expected},
        "shapes": {n: shapes[n] for n in case.expected},
    }


def language_model() -> tuple[Any, Any, Any]:
    """A decoder like LLaMA, 1.1 billion parameters, its layers under a scan: function, shapes, tokens."""
    layers, width, heads, groups, hidden, words = SHAPE.values()
    size = width // heads

    def normed(x: jax.Array, gain: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * gain[None, None]

    def turned(x: jax.Array) -> jax.Array:
        angle = jnp.arange(x.shape[1])[:, None] * 1e4 ** (-jnp.arange(0, size, 2) / size)[None]
        cos = jnp.cos(angle)[None, :, None]
        sin = jnp.sin(angle)[None, :, None]
        a = x[..., : size // 2]
        b = x[..., size // 2 :]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def block(x: jax.Array, p: Any) -> tuple[jax.Array, None]:
        h = normed(x, p["before"])
        q, k, v = (jnp.einsum("btd,dhk->bthk", h, p[name]) for name in "qkv")
        q = turned(q).reshape(*x.shape[:2], groups, heads // groups, size)
        scores = jnp.einsum("btgrd,bsgd->bgrts", q, turned(k)) / size**0.5
        weights = jax.nn.softmax(scores, -1)
        mixed = jnp.einsum("bgrts,bsgd->btgrd", weights, v).reshape(*x.shape[:2], heads, size)
        x = x + jnp.einsum("bthk,hkd->btd", mixed, p["o"])
        h = normed(x, p["after"])
        return x + (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"], None

    def apply(p: Any, tokens: jax.Array) -> jax.Array:
        x, _ = jax.lax.scan(jax.checkpoint(block), p["embedding"][tokens], p["layers"])
        return normed(x, p["norm"]) @ p["embedding"].T

    kernels = {
        "q": (width, heads, size),
        "k": (width, groups, size),
        "v": (width, groups, size),
        "o": (heads, size, width),
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
        found = jp.axes(apply, params, tokens)
        seconds.append(round(time.process_time() - start, 3))
    kernels = [a for a in jp.masks.beside(params, found) if a is not None and a.use == "kernel"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"parameters": count, "kernels": len(kernels), "cpu_seconds": seconds}


def grouped() -> dict[str, dict[str, str]]:
    """What 2:4 and Wanda's comparison per output keep, on kernels that are not [inputs, outputs]."""
    key = jax.random.key(0)
    x = jax.random.normal(jax.random.key(1), (2, 8, 32))

    def normal(*shape):
        return jax.random.normal(key, shape)

    def scan(p, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["w"])[0]

    # name: (function, kernel, its axes of inputs, of outputs, of layers)
    kernels = {
        "attention query, [inputs, heads, head_dim]": (
            lambda p, x: jnp.einsum("btd,dhk->bthk", x, p["w"]),
            normal(32, 4, 8),
            ((0,), (1, 2), ()),
        ),
        "attention out, [heads, head_dim, outputs]": (
            lambda p, x: jnp.einsum("bthk,hkd->btd", x.reshape(2, 8, 4, 8), p["w"]),
            normal(4, 8, 32),
            ((0, 1), (2,), ()),
        ),
        "heads first, [heads, inputs, head_dim]": (
            lambda p, x: jnp.einsum("btd,hdk->bthk", x, p["w"]),
            normal(4, 32, 8),
            ((1,), (0, 2), ()),
        ),
        "stored [outputs, inputs]": (
            lambda p, x: x @ p["w"].T,
            normal(32, 32),
            ((1,), (0,), ()),
        ),
        "scanned, stacked along axis 1": (
            lambda p, x: scan({"w": jnp.moveaxis(p["w"], 1, 0)}, x),
            normal(32, 4, 32),
            ((0,), (2,), (1,)),
        ),
        "scanned, stored [layers, outputs, inputs]": (
            lambda p, x: scan({"w": jnp.swapaxes(p["w"], 1, 2)}, x),
            normal(3, 32, 32),
            ((2,), (1,), (0,)),
        ),
        "fused query, key and value, [3, heads, inputs, head_dim]": (
            lambda p, x: jnp.einsum("btd,shdk->sbthk", x, p["w"]),
            normal(3, 4, 32, 8),
            ((2,), (0, 1, 3), ()),
        ),
        "experts, [inputs, experts, outputs]": (
            lambda p, x: jnp.einsum("ecd,def->ecf", jnp.stack([x[0]] * 4), p["w"]),
            normal(32, 4, 32),
            ((0,), (2,), (1,)),
        ),
    }
    return {name: _kept(*case, x) for name, case in kernels.items()}


def _kept(apply: Any, kernel: jax.Array, order: Any, x: jax.Array) -> dict[str, str]:
    """What is kept of one kernel; `order` is its axes of inputs, of outputs and of layers."""
    inputs, outputs, layers = order
    params = {"w": kernel}
    axes = jp.axes(apply, params, x)
    moments = jp.signals.input_moments(apply, params, [x])

    def rows(pattern: Any, given: Any) -> jax.Array:
        """The mask with the inputs of one output in each row."""
        schedule = jp.schedules.one_shot(sparsity=0.5)
        method = jp.Method(jp.criteria.wanda, schedule=schedule, pattern=pattern)
        _, masks = jp.prune(params, method, axes=given, input_moments=moments, prunable="w")
        return masks["w"].transpose(*layers, *outputs, *inputs).reshape(-1, 32)

    def figures(groups: Any, whole: Any, given: Any) -> str:
        try:
            share = (rows(groups, given).reshape(-1, 4).sum(1) == 2).mean()
            counts = rows(whole, given).sum(1)
        except ValueError:
            return "refused"
        return f"{share:.0%}, {int(counts.min())} to {int(counts.max())}"

    by_position = (jp.patterns.groups(4, axis=-2), jp.patterns.groups(axis=-2))
    return {
        "axes": figures(jp.patterns.groups(4), jp.patterns.groups(), axes),
        "position": figures(*by_position, None),
    }


def main() -> None:
    """Writes the table."""
    rows = {name: row(make()) for name, make in CASES.items()}
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
    total = {
        key: sum(r[key] for r in rows.values())
        for key in ("kernels", "found", "by shape", "refused")
    }
    lines = [
        "# Kernels whose axes are found",
        "",
        f"`jaxprune.axes` on {len(rows)} layers of linen, NNX, Haiku, Equinox and plain JAX: "
        f"{total['found']} of {total['kernels']} kernels have the right inputs, outputs and layers. "
        f"From shapes alone {total['by shape']} would, {total['refused']} are refused in words, and "
        f"{total['kernels'] - total['by shape'] - total['refused']} would be taken for something else.",
        "",
        f"A decoder like LLaMA with {model['parameters']:,} parameters, its layers under a scan, takes "
        f"{model['cpu_seconds'][0]} CPU seconds the first time and {model['cpu_seconds'][-1]} again "
        f"(JAX {setting['jax']}, one core).",
        "",
        "| layer | kernel | shape | inputs | outputs | layers | right | by shape alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        for kernel, axes in r["axes"].items():
            expected = CASES[name]().expected[kernel]
            told = by_position(r["shapes"][kernel])
            by_shape = (told.in_axis, told.out_axis, told.batch_axis) == expected
            text = "right" if by_shape else "refused" if told.in_axis is None else "wrong"
            shown = ["none"] * 3 if axes is None else [", ".join(map(str, a)) or "" for a in axes]
            shape = "x".join(map(str, r["shapes"][kernel]))
            right = "yes" if axes == expected else "no"
            lines.append(
                f"| {name} | `{kernel}` | {shape} | {' | '.join(shown)} | {right} | {text} |"
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
        *(f"| {name} | {own['axes']} | {own['position']} |" for name, own in groups.items()),
    ]
    (RESULTS / "kernel_axes.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines[:5]))


if __name__ == "__main__":
    main()
