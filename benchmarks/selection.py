"""Exact selection beside its peers: global masks of a tree of scores, and N:M masks.

Each contender gets the scores and returns boolean masks; the limit is one pass that compares with a
known threshold. Ratios are medians over interleaved rounds, beside the bars that we set ourselves. PyTorch's
`topk` and `kthvalue` stand beside them where it is installed.

Run: python -m benchmarks.selection --sizes 1e6,1e7,1e8   (writes results/benchmarks/selection.json and .md)
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks._timing import Timing, hardware, hardware_line, interleave, write
from experiments.reports.markdown import table
from jaxprune.selection import top, top_along

try:
    import torch
except ImportError:
    torch = None

LIMIT = "mask pass (limit)"
COLUMNS = ("contender", "ms", "x of ours", "bar", "holds")
OURS = "ours"
KEEP = 0.1
SHARES = (0.5, 0.25, 0.15, 0.05, 0.04, 0.01)  # of the leaves
GROUPED = 2**22  # weights of the N:M masks

# How many times faster than a contender we are to be, and how close to the limit.
BARS = {
    1e7: {"argsort(-x)": (">=", 120), "torch.topk": (">=", 10), LIMIT: ("<=", 9)},
    1e8: {"argsort(-x)": (">=", 150), "torch.topk": (">=", 15), LIMIT: ("<=", 5)},
    "2:4": {"argsort of argsort": (">=", 80), "lax.top_k": (">=", 10), LIMIT: ("<=", 4)},
    "4:8": {"argsort of argsort": (">=", 80), "lax.top_k": (">=", 10), LIMIT: ("<=", 9)},
}


def main() -> None:
    """Prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1e6,1e7", help="scores in the tree, by comma")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/selection.json"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for size in map(float, arguments.sizes.split(",")):
        title = f"{size:.0e}"
        results[title] = over_all(int(size), arguments.rounds) | {"bars": BARS.get(size, {})}
        print(report(title, results[title]), flush=True)
    for keep, group_size in ((2, 4), (4, 8)):
        title = f"{keep}:{group_size}"
        results[title] = grouped(keep, group_size, arguments.rounds) | {"bars": BARS[title]}
        print(report(title, results[title]), flush=True)
    write(arguments.out, results, "torch")
    parts = [
        "# Exact selection beside its peers\n",
        f"Written by `python -m benchmarks.selection`: {hardware_line(hardware('torch'))}.\n",
        f"Medians of {arguments.rounds} rounds in turns; the slowest ran once. A bar says how many times "
        "faster than a contender selection has to be, or how close to the limit.\n",
        *(report(title, result) for title, result in results.items()),
    ]
    arguments.out.with_suffix(".md").write_text("\n".join(parts))


def over_all(size: int, rounds: int) -> dict[str, Any]:
    """Times the masks of the largest tenth of all scores."""
    rng = np.random.default_rng(0)
    shapes = [(int(size * share) // 500, 500) for share in SHARES]
    leaves = [jnp.asarray(np.abs(rng.standard_normal(shape, np.float32))) for shape in shapes]
    score_count = sum(scores.size for scores in leaves)
    keep_count = int(KEEP * score_count)

    def split(mask):
        parts = jnp.split(mask, np.cumsum([scores.size for scores in leaves])[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def flatten(leaves_in):
        return jnp.concatenate([scores.ravel() for scores in leaves_in])

    def keep(index):
        return jnp.zeros(score_count, bool).at[index].set(True)

    def by_sort(leaves_in):
        threshold = jnp.sort(flatten(leaves_in))[score_count - keep_count]
        return [scores >= threshold for scores in leaves_in]

    contenders = {
        OURS: lambda leaves_in: top(leaves_in, keep_count),
        LIMIT: lambda leaves_in: [scores >= 1.645 for scores in leaves_in],
        "argsort(-x)": lambda leaves_in: split(keep(jnp.argsort(-flatten(leaves_in))[:keep_count])),
        "jnp.sort": by_sort,
        "lax.top_k": lambda leaves_in: split(keep(lax.top_k(flatten(leaves_in), keep_count)[1])),
    }
    compiled = {
        name: jax.jit(function).lower(leaves).compile() for name, function in contenders.items()
    }
    thunks: dict[str, Callable] = {
        name: functools.partial(function, leaves) for name, function in compiled.items()
    }
    if torch:
        arrays = [np.asarray(scores) for scores in leaves]
        thunks["torch.topk"] = torch_topk(arrays, keep_count, in_order=True)
        thunks["torch.topk, any order"] = torch_topk(arrays, keep_count, in_order=False)
        thunks["torch.kthvalue"] = torch_kthvalue(arrays, keep_count)
    slow_names = ("argsort(-x)", "jnp.sort", "lax.top_k") if size > 3e6 else ()
    relative_temporaries = compiled[OURS].memory_analysis().temp_size_in_bytes / (4 * score_count)
    return {
        "timings": interleave(thunks, OURS, rounds, slow_names),
        "temporaries": relative_temporaries,
    }


def torch_topk(leaves: list[np.ndarray], keep_count: int, in_order: bool) -> Callable:
    """The same masks by PyTorch; its default also puts the indices in order."""
    tensors = [torch.from_numpy(array.copy()) for array in leaves]

    def select():
        scores = torch.cat([tensor.ravel() for tensor in tensors])
        mask = torch.zeros(scores.numel(), dtype=torch.bool)
        mask[torch.topk(scores, keep_count, sorted=in_order).indices] = True
        return [
            part.reshape(tensor.shape)
            for part, tensor in zip(
                mask.split([tensor.numel() for tensor in tensors]), tensors, strict=True
            )
        ]

    return lambda: select() and None


def torch_kthvalue(leaves: list[np.ndarray], keep_count: int) -> Callable:
    """Masks above PyTorch's k-th value: of equal scores it keeps all or none, so counts are not exact."""
    tensors = [torch.from_numpy(array.copy()) for array in leaves]

    def select():
        scores = torch.cat([tensor.ravel() for tensor in tensors])
        threshold = torch.kthvalue(scores, scores.numel() - keep_count + 1).values
        return [tensor >= threshold for tensor in tensors]

    return lambda: select() and None


def grouped(keep: int, group_size: int, rounds: int) -> dict[str, Any]:
    """Times N:M masks: the n largest of each m consecutive scores."""
    rng = np.random.default_rng(0)
    scores = jnp.asarray(
        np.abs(rng.standard_normal((GROUPED // group_size, group_size), np.float32))
    )
    zeros = jnp.zeros(scores.shape, bool)
    put_true = functools.partial(jnp.put_along_axis, zeros, values=True, axis=1, inplace=False)
    contenders = {
        OURS: lambda scores_in: top_along(scores_in, keep, 1),
        LIMIT: lambda scores_in: scores_in >= 0.6745,
        "argsort of argsort": lambda scores_in: jnp.argsort(jnp.argsort(-scores_in, 1), 1) < keep,
        "lax.top_k": lambda scores_in: put_true(lax.top_k(scores_in, keep)[1]),
    }
    thunks = {
        name: functools.partial(jax.jit(function).lower(scores).compile(), scores)
        for name, function in contenders.items()
    }
    return {"timings": interleave(thunks, OURS, rounds, ("argsort of argsort",))}


def report(title: str, result: dict[str, Any]) -> str:
    """Returns one table: how each contender compares with ours, the bar, and whether it holds."""
    timings: dict[str, Timing] = result["timings"]
    rows = []
    for name, timing in timings.items():
        comparison, bar = result["bars"].get(name, ("", 0))
        cells = ["", ""]
        if comparison == ">=":
            cells = [f">= {bar}", "yes" if timing.ratio >= bar else "no"]
        elif comparison == "<=":
            ratio = 1 / timing.ratio
            cells = [f"ours <= {bar} x this", f"{'yes' if ratio <= bar else 'no'}, {ratio:.2f}"]
        rows.append([name, f"{timing.seconds * 1e3:.2f}", f"{timing.ratio:.2f}", *cells])
    parts = [f"## {title}\n", table(COLUMNS, rows), ""]
    if "temporaries" in result:
        share = result["temporaries"]
        verdict = f" (aim < 1 %: {'yes' if share < 0.01 else 'no'})" if result["bars"] else ""
        parts += [f"Temporaries of ours: {share:.3%} of the scores{verdict}.\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
