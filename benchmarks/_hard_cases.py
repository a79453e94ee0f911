"""The cases of `_hard_cases_torch` for jaxprune: each function runs one and says what came of it.

Removal is compared with the same function of the whole parameters, with zeros in the layers that give out
the removed units, and nowhere else.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune import structured

TOLERANCE = 1e-5
Outcome = dict[str, Any]
KEY = jax.random.key(0)


def outcomes() -> dict[str, Outcome]:
    """By case."""
    return {name: outcome(case) for name, case in CASES.items()}


def outcome(case: Callable[[], Outcome]) -> Outcome:
    try:
        found = case()
    except Exception as e:  # whatever it is, it is the finding
        return {"failed": True, "text": f"crash: {type(e).__name__}: {str(e)[:110]}"}
    return {key: found[key] for key in ("failed", "text")}


def drawn(**shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {n: jnp.asarray(rng.normal(size=s), jnp.float32) / 2 for n, s in shapes.items()}


def inputs(*shape: int) -> jax.Array:
    return jax.random.normal(KEY, shape)


def conv(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout) + bias


def removed(
    fn: Callable[..., jax.Array],
    params: dict[str, jax.Array],
    x: jax.Array,
    zeros: tuple[str, ...],
    sparsity: float = 0.5,
    only: Any = None,
) -> Outcome:
    """Removes units; the largest difference of outputs over their largest size.

    Args:
      fn: of parameters and input.
      params: by name.
      x: the input.
      zeros: parameters that are masked for the comparison; the others stay whole.
      sparsity: of the groups pruned.
      only: which groups.
    """
    graph = structured.trace(fn, params, x)
    masks = structured.prune(graph, params, sparsity=sparsity, only=only)
    small = structured.shrink(graph, params, masks)
    some = {name: masks[name] if name in zeros else None for name in masks}
    expected = fn(jp.masks.apply(params, some), x)
    scale = float(jnp.abs(expected).max())
    error = float(jnp.abs(small.apply(small.params, x) - expected).max()) / scale
    each = max(structured.verify(graph, params, x).values())
    lost = [
        f"{name} {params[name].shape} to {small.params[name].shape}"
        for name in params
        if small.params[name].shape != params[name].shape
    ]
    failed = max(error, each) > TOLERANCE
    text = (
        f"{'wrong' if failed else 'right'}: {error:.1e} ({', '.join(lost)}); "
        f"{len(graph.groups)} groups, each alone at most {each:.1e}"
    )
    return {"failed": failed, "text": text, "small": small}


def channel_shuffle() -> Outcome:
    def fn(p, x):
        h = jax.nn.relu(conv(x, p["first"], p["bias"]))
        h = h.reshape(*h.shape[:-1], 2, 4).swapaxes(-1, -2).reshape(h.shape)
        return jax.nn.relu(conv(h, p["second"], p["bias2"])).mean((1, 2))

    params = drawn(first=(1, 1, 3, 8), bias=(1, 1, 1, 8), second=(3, 3, 8, 6), bias2=(1, 1, 1, 6))

    def one_per_block(group):
        return group.size == 4

    return removed(fn, params, inputs(2, 8, 8, 3), ("first", "bias"), 0.25, one_per_block)


def depth_to_space() -> Outcome:
    def fn(p, x):
        h = jax.nn.relu(conv(x, p["first"], p["bias"]))
        b, n, m, c = h.shape
        h = h.reshape(b, n, m, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        return conv(h.reshape(b, 2 * n, 2 * m, c // 4), p["second"], p["bias2"]).mean((1, 2))

    params = drawn(first=(3, 3, 3, 16), bias=(1, 1, 1, 16), second=(3, 3, 4, 5), bias2=(1, 1, 1, 5))
    return removed(fn, params, inputs(2, 8, 8, 3), ("first", "bias"), 0.25)


def grouped_queries() -> Outcome:
    """Six heads of eight dimensions, in two groups: one group goes."""

    def fn(p, x):
        b, n, _ = x.shape
        q, k, v = ((x @ p[name]).reshape(b, n, -1, 8) for name in ("query", "key", "value"))
        k, v = (jnp.repeat(z, 3, axis=2) for z in (k, v))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5)
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, n, -1) @ p["out"]

    params = drawn(query=(12, 48), key=(12, 16), value=(12, 16), out=(48, 12))

    def whole_group(group):
        return group.size == 2

    return removed(fn, params, inputs(2, 5, 12), ("query", "key", "value"), 0.5, whole_group)


def tied_embedding() -> Outcome:
    def fn(p, tokens):
        x = p["embed"][tokens]
        return (x + x @ p["mix"] + p["bias"]) @ p["embed"].T

    params = drawn(embed=(11, 8), mix=(8, 8), bias=(1, 1, 8))
    tokens = jax.random.randint(KEY, (2, 5), 0, 11)
    found = removed(fn, params, tokens, tuple(params), 0.25)
    small = found["small"]

    def count(tree):
        return sum(leaf.size for leaf in tree.values())

    text = f"one array by construction: {count(params)} parameters, then {count(small.params)}; outputs "
    return found | {"text": text + found["text"]}


def raw_parameter() -> Outcome:
    def fn(p, x):
        h = jax.nn.relu(x @ p["first"] + p["bias"])
        return jnp.einsum("bi,io->bo", h, p["w"]) @ p["second"]

    params = drawn(first=(6, 8), bias=(1, 8), w=(8, 10), second=(10, 3))
    return removed(fn, params, inputs(4, 6), ("first", "bias"), 0.25, "first")


def separate_widths() -> Outcome:
    """One head: a dimension of queries and keys is none of values."""

    def fn(p, x):
        q, k, v = (x @ p[name] for name in ("query", "key", "value"))
        return jax.nn.softmax(q @ k.swapaxes(1, 2) / 4) @ v @ p["out"]

    params = drawn(query=(12, 16), key=(12, 16), value=(12, 16), out=(16, 12))
    return removed(fn, params, inputs(2, 5, 12), ("query", "key"), 1 / 16, "query")


def multiplications() -> Outcome:
    """A layer of 256, then products of 128: with a parameter, and of activations."""

    def with_a_parameter(p, x):
        return x @ p["first"] @ p["w"]

    def of_activations(p, x):
        return (lambda y: y.reshape(8, 2) @ y.reshape(2, 8))(x @ p["first"])

    cases = {
        "a parameter": (with_a_parameter, drawn(first=(32, 8), w=(8, 16)), inputs(1, 32)),
        "activations": (of_activations, drawn(first=(16, 16)), inputs(1, 16)),
    }
    wrong = False
    results = []
    for kind, (fn, params, x) in cases.items():
        nothing = dict.fromkeys(params)
        counted = structured.flops(structured.trace(fn, params, x), params, nothing) // 2
        single = sum(jp.metrics.flops(fn, params, x).values()) // 2
        wrong |= counted != 384
        results.append(f"{counted} of 384 (product with {kind}; by metrics.flops {single})")
    return {"failed": wrong, "text": ", ".join(results)}


def diagonal_fisher() -> Outcome:
    def fn(p, x):
        return jax.nn.relu(x @ p["first"]) @ p["second"]

    params = drawn(first=(6, 8), second=(8, 3))
    x = inputs(10, 6)
    labels = jax.random.randint(KEY, (10,), 0, 3)

    def loss(p, batch):
        logs = jax.nn.log_softmax(fn(p, batch[0]))
        return -jnp.take_along_axis(logs, batch[1][:, None], 1).mean()

    fisher = jp.signals.fisher(loss, params, [(x, labels)])
    graph = structured.trace(fn, params, x)
    scores = structured.scores(graph, params, criterion=jp.criteria.fisher, fisher=fisher)
    (found,) = scores.values()

    def by_hand(samples):
        each = [jax.grad(loss)(params, (x[i : i + 1], labels[i : i + 1])) for i in samples]
        worth = {
            n: w**2 * jnp.mean(jnp.stack([g[n] ** 2 for g in each]), 0) for n, w in params.items()
        }
        return np.asarray(worth["first"].sum(0) + worth["second"].sum(1)) / 2

    whole = by_hand(range(10))
    last = by_hand([9])

    def off(right):
        return float(np.abs(found - right).max() / np.abs(right).max())

    text = f"off the mean over 10 samples by {off(whole):.1e}, off the last sample's by {off(last):.1e}"
    return {"failed": off(whole) > TOLERANCE, "text": text}


def taylor_and_batchnorm() -> Outcome:
    """Whether a norm's scale and bias can be what counts: `over="scales"`."""

    def fn(p, x):
        h = conv(x, p["first"]["kernel"], p["first"]["bias"])
        h = jax.nn.relu(
            h * p["norm"]["scale"][None, None, None] + p["norm"]["bias"][None, None, None]
        )
        return conv(h, p["second"]["kernel"], p["second"]["bias"])

    flat = drawn(a=(3, 3, 3, 8), b=(1, 1, 1, 8), c=(8,), d=(8,), e=(3, 3, 8, 4), f=(1, 1, 1, 4))
    a, b, c, d, e, f = flat.values()
    params = {
        "first": {"kernel": a, "bias": b},
        "norm": {"scale": c + 1, "bias": d},
        "second": {"kernel": e, "bias": f},
    }
    x = inputs(2, 8, 8, 3)
    graph = structured.trace(fn, params, x)
    grads = jax.grad(lambda p: jnp.sum(fn(p, x) ** 2))(params)
    taylor = partial(structured.scores, graph, params, criterion=jp.criteria.taylor, over="scales")

    def score(grads):
        return next(iter(taylor(grads=grads).values()))

    own = float(jnp.abs(params["norm"]["scale"] * grads["norm"]["scale"]).max())
    more = grads | {"norm": {"scale": 100 * grads["norm"]["scale"], "bias": grads["norm"]["bias"]}}
    change = float(np.abs(score(more) - score(grads)).max())
    text = f"scores change by {change:.1e} where the scales' gradients, of score {own:.1e}, grow 100-fold"
    return {"failed": change == 0, "text": text}


def geometric_median() -> Outcome:
    def fn(p, x):
        return x @ p["first"] @ p["second"]

    params = drawn(first=(6, 8), second=(8, 3))
    graph = structured.trace(fn, params, inputs(1, 6))
    (found,) = structured.scores(graph, params, criterion=jp.criteria.fpgm).values()
    filters = np.asarray(params["first"]).T

    def apart(w):
        return np.linalg.norm(w[:, None] - w[None], axis=-1).sum(1)

    # What the next layer's own distances add is the same for each unit, so it is taken off.
    def level(scores):
        return scores - scores.mean()

    def off(right):
        return float(np.abs(level(found) - level(right)).max() / np.abs(right).max())

    def half(scores):
        return sorted(int(i) for i in np.argsort(scores, kind="stable")[:4])

    right = apart(filters)
    squared = apart(filters**2)
    text = (
        f"off the filters' distances by {off(right):.1e}, off their squares' by {off(squared):.1e}; "
        f"half removed: {half(found)}, by the filters' {half(right)}"
    )
    return {"failed": off(right) > TOLERANCE, "text": text}


CASES: dict[str, Callable[[], Outcome]] = {
    "channel shuffle": channel_shuffle,
    "depth to space": depth_to_space,
    "grouped queries, heads not declared": grouped_queries,
    "tied embedding": tied_embedding,
    "einsum with a raw parameter": raw_parameter,
    "widths of q, k and v, o": separate_widths,
    "multiplications of a functional matmul": multiplications,
    "diagonal Fisher over samples": diagonal_fisher,
    "Taylor and BatchNorm": taylor_and_batchnorm,
    "FPGM": geometric_median,
}
