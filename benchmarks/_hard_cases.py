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
        result = case()
    except Exception as e:  # whatever it is, it is the finding
        return {"failed": True, "text": f"crash: {type(e).__name__}: {str(e)[:110]}"}
    return {key: result[key] for key in ("failed", "text")}


def drawn(**shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) / 2 for name, shape in shapes.items()
    }


def inputs(*shape: int) -> jax.Array:
    return jax.random.normal(KEY, shape)


def conv(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout) + bias


def removed(
    function: Callable[..., jax.Array],
    params: dict[str, jax.Array],
    x: jax.Array,
    zeros: tuple[str, ...],
    sparsity: float = 0.5,
    only: Any = None,
) -> Outcome:
    """Removes units; the largest difference of outputs over their largest size.

    Args:
      function: of parameters and input.
      params: by name.
      x: the input.
      zeros: parameters that are masked for the comparison; the others stay whole.
      sparsity: of the groups pruned.
      only: which groups.
    """
    graph = structured.trace(function, params, x)
    masks = structured.prune(graph, params, sparsity=sparsity, only=only)
    small = structured.shrink(graph, params, masks)
    compared_masks = {name: masks[name] if name in zeros else None for name in masks}
    expected = function(jp.masks.apply(params, compared_masks), x)
    scale = float(jnp.abs(expected).max())
    relative_error = float(jnp.abs(small.apply(small.params, x) - expected).max()) / scale
    largest_group_error = max(structured.verify(graph, params, x).values())
    shape_changes = [
        f"{name} {params[name].shape} to {small.params[name].shape}"
        for name in params
        if small.params[name].shape != params[name].shape
    ]
    failed = max(relative_error, largest_group_error) > TOLERANCE
    summary = (
        f"{'wrong' if failed else 'right'}: {relative_error:.1e} ({', '.join(shape_changes)}); "
        f"{len(graph.groups)} groups, each alone at most {largest_group_error:.1e}"
    )
    return {"failed": failed, "text": summary, "small": small}


def channel_shuffle() -> Outcome:
    def function(params, x):
        hidden = jax.nn.relu(conv(x, params["first"], params["bias"]))
        hidden = hidden.reshape(*hidden.shape[:-1], 2, 4).swapaxes(-1, -2).reshape(hidden.shape)
        return jax.nn.relu(conv(hidden, params["second"], params["bias2"])).mean((1, 2))

    params = drawn(first=(1, 1, 3, 8), bias=(1, 1, 1, 8), second=(3, 3, 8, 6), bias2=(1, 1, 1, 6))

    def one_per_block(group):
        return group.size == 4

    return removed(function, params, inputs(2, 8, 8, 3), ("first", "bias"), 0.25, one_per_block)


def depth_to_space() -> Outcome:
    def function(params, x):
        hidden = jax.nn.relu(conv(x, params["first"], params["bias"]))
        batch, height, width, channels = hidden.shape
        hidden = hidden.reshape(batch, height, width, channels // 4, 2, 2).transpose(
            0, 1, 4, 2, 5, 3
        )
        return conv(
            hidden.reshape(batch, 2 * height, 2 * width, channels // 4),
            params["second"],
            params["bias2"],
        ).mean((1, 2))

    params = drawn(first=(3, 3, 3, 16), bias=(1, 1, 1, 16), second=(3, 3, 4, 5), bias2=(1, 1, 1, 5))
    return removed(function, params, inputs(2, 8, 8, 3), ("first", "bias"), 0.25)


def grouped_queries() -> Outcome:
    """Six heads of eight dimensions, in two groups: one group goes."""

    def function(params, x):
        batch, length, _ = x.shape
        query, key, value = (
            (x @ params[name]).reshape(batch, length, -1, 8) for name in ("query", "key", "value")
        )
        key, value = (jnp.repeat(heads, 3, axis=2) for heads in (key, value))
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / 8**0.5)
        return (
            jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, length, -1) @ params["out"]
        )

    params = drawn(query=(12, 48), key=(12, 16), value=(12, 16), out=(48, 12))

    def whole_group(group):
        return group.size == 2

    return removed(function, params, inputs(2, 5, 12), ("query", "key", "value"), 0.5, whole_group)


def tied_embedding() -> Outcome:
    def function(params, tokens):
        embedded = params["embed"][tokens]
        return (embedded + embedded @ params["mix"] + params["bias"]) @ params["embed"].T

    params = drawn(embed=(11, 8), mix=(8, 8), bias=(1, 1, 8))
    tokens = jax.random.randint(KEY, (2, 5), 0, 11)
    result = removed(function, params, tokens, tuple(params), 0.25)
    small = result["small"]

    def count(tree):
        return sum(leaf.size for leaf in tree.values())

    summary = f"one array by construction: {count(params)} parameters, then {count(small.params)}; outputs "
    return result | {"text": summary + result["text"]}


def raw_parameter() -> Outcome:
    def function(params, x):
        hidden = jax.nn.relu(x @ params["first"] + params["bias"])
        return jnp.einsum("bi,io->bo", hidden, params["w"]) @ params["second"]

    params = drawn(first=(6, 8), bias=(1, 8), w=(8, 10), second=(10, 3))
    return removed(function, params, inputs(4, 6), ("first", "bias"), 0.25, "first")


def separate_widths() -> Outcome:
    """One head: a dimension of queries and keys is none of values."""

    def function(params, x):
        query, key, value = (x @ params[name] for name in ("query", "key", "value"))
        return jax.nn.softmax(query @ key.swapaxes(1, 2) / 4) @ value @ params["out"]

    params = drawn(query=(12, 16), key=(12, 16), value=(12, 16), out=(16, 12))
    return removed(function, params, inputs(2, 5, 12), ("query", "key"), 1 / 16, "query")


def multiplications() -> Outcome:
    """A layer of 256, then products of 128: with a parameter, and of activations."""

    def with_a_parameter(params, x):
        return x @ params["first"] @ params["w"]

    def of_activations(params, x):
        return (lambda hidden: hidden.reshape(8, 2) @ hidden.reshape(2, 8))(x @ params["first"])

    cases = {
        "a parameter": (with_a_parameter, drawn(first=(32, 8), w=(8, 16)), inputs(1, 32)),
        "activations": (of_activations, drawn(first=(16, 16)), inputs(1, 16)),
    }
    is_wrong = False
    results = []
    for kind, (function, params, x) in cases.items():
        no_masks = dict.fromkeys(params)
        graph_count = structured.flops(structured.trace(function, params, x), params, no_masks) // 2
        metric_count = sum(jp.metrics.flops(function, params, x).values()) // 2
        is_wrong |= graph_count != 384
        results.append(
            f"{graph_count} of 384 (product with {kind}; by metrics.flops {metric_count})"
        )
    return {"failed": is_wrong, "text": ", ".join(results)}


def diagonal_fisher() -> Outcome:
    def function(params, x):
        return jax.nn.relu(x @ params["first"]) @ params["second"]

    params = drawn(first=(6, 8), second=(8, 3))
    x = inputs(10, 6)
    labels = jax.random.randint(KEY, (10,), 0, 3)

    def loss(params, batch):
        log_probabilities = jax.nn.log_softmax(function(params, batch[0]))
        return -jnp.take_along_axis(log_probabilities, batch[1][:, None], 1).mean()

    fisher = jp.signals.fisher(loss, params, [(x, labels)])
    graph = structured.trace(function, params, x)
    scores = structured.scores(graph, params, criterion=jp.criteria.fisher, fisher=fisher)
    (unit_scores,) = scores.values()

    def by_hand(samples):
        gradients = [
            jax.grad(loss)(params, (x[sample : sample + 1], labels[sample : sample + 1]))
            for sample in samples
        ]
        weight_scores = {
            name: weight**2
            * jnp.mean(jnp.stack([gradient[name] ** 2 for gradient in gradients]), 0)
            for name, weight in params.items()
        }
        return np.asarray(weight_scores["first"].sum(0) + weight_scores["second"].sum(1)) / 2

    mean_scores = by_hand(range(10))
    last_sample_scores = by_hand([9])

    def relative_error(expected):
        return float(np.abs(unit_scores - expected).max() / np.abs(expected).max())

    summary = (
        f"off the mean over 10 samples by {relative_error(mean_scores):.1e}, "
        f"off the last sample's by {relative_error(last_sample_scores):.1e}"
    )
    return {"failed": relative_error(mean_scores) > TOLERANCE, "text": summary}


def taylor_and_batchnorm() -> Outcome:
    """Whether a norm's scale and bias can be what counts: `over="scales"`."""

    def function(params, x):
        hidden = conv(x, params["first"]["kernel"], params["first"]["bias"])
        hidden = jax.nn.relu(
            hidden * params["norm"]["scale"][None, None, None]
            + params["norm"]["bias"][None, None, None]
        )
        return conv(hidden, params["second"]["kernel"], params["second"]["bias"])

    arrays = drawn(a=(3, 3, 3, 8), b=(1, 1, 1, 8), c=(8,), d=(8,), e=(3, 3, 8, 4), f=(1, 1, 1, 4))
    first_kernel, first_bias, scale, shift, second_kernel, second_bias = arrays.values()
    params = {
        "first": {"kernel": first_kernel, "bias": first_bias},
        "norm": {"scale": scale + 1, "bias": shift},
        "second": {"kernel": second_kernel, "bias": second_bias},
    }
    x = inputs(2, 8, 8, 3)
    graph = structured.trace(function, params, x)
    grads = jax.grad(lambda params: jnp.sum(function(params, x) ** 2))(params)
    taylor = partial(structured.scores, graph, params, criterion=jp.criteria.taylor, over="scales")

    def score(grads):
        return next(iter(taylor(grads=grads).values()))

    largest_score = float(jnp.abs(params["norm"]["scale"] * grads["norm"]["scale"]).max())
    larger_grads = grads | {
        "norm": {"scale": 100 * grads["norm"]["scale"], "bias": grads["norm"]["bias"]}
    }
    change = float(np.abs(score(larger_grads) - score(grads)).max())
    summary = (
        f"scores change by {change:.1e} where the scales' gradients, of score {largest_score:.1e}, "
        "grow 100-fold"
    )
    return {"failed": change == 0, "text": summary}


def geometric_median() -> Outcome:
    def function(params, x):
        return x @ params["first"] @ params["second"]

    params = drawn(first=(6, 8), second=(8, 3))
    graph = structured.trace(function, params, inputs(1, 6))
    (unit_scores,) = structured.scores(graph, params, criterion=jp.criteria.fpgm).values()
    filters = np.asarray(params["first"]).T

    def summed_distances(vectors):
        return np.linalg.norm(vectors[:, None] - vectors[None], axis=-1).sum(1)

    # What the next layer's own distances add is the same for each unit, so it is taken off.
    def centered(scores):
        return scores - scores.mean()

    def relative_error(expected):
        return float(
            np.abs(centered(unit_scores) - centered(expected)).max() / np.abs(expected).max()
        )

    def half_removed(scores):
        return sorted(int(i) for i in np.argsort(scores, kind="stable")[:4])

    expected = summed_distances(filters)
    squared_distances = summed_distances(filters**2)
    summary = (
        f"off the filters' distances by {relative_error(expected):.1e}, "
        f"off their squares' by {relative_error(squared_distances):.1e}; "
        f"half removed: {half_removed(unit_scores)}, by the filters' {half_removed(expected)}"
    )
    return {"failed": relative_error(expected) > TOLERANCE, "text": summary}


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
