"""What nobody needs neither pins nor is pruned by itself; what is pinned is named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import jaxprune as jp
from jaxprune import structured

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32) / 2
X = draw(5, 3)
PARAMS = {"in": draw(3, 8), "out": draw(8, 2)}
LOOKED_AT = lambda h: {"order": jnp.argsort(h, axis=-1), "hidden": h}


def units(graph):
    return {group.name: group.size for group in graph.groups}


def exact(graph, params, *inputs):
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    masked = graph.fn(jp.masks.apply(params, masks), *inputs)
    np.testing.assert_allclose(small.apply(small.params, *inputs), masked, rtol=2e-5, atol=2e-6)
    return small


WAYS = {
    "plain": lambda run, h: run(h),
    "jit": lambda run, h: jax.jit(run)(h),
    "checkpoint": lambda run, h: jax.checkpoint(run)(h),
    "cond": lambda run, h: lax.cond(h.sum() > 0, run, lambda h: run(2 * h), h),
    "scan": lambda run, h: jax.tree.map(
        lambda rows: rows[0], lax.scan(lambda c, h: (c, run(h)), 0.0, h[None])[1]
    ),
    "vmap": lambda run, h: (
        jax.vmap(run)(h[None]) and jax.tree.map(lambda rows: rows[0], jax.vmap(run)(h[None]))
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_results_that_nobody_takes_pin_nothing(name):
    def fn(p, x):
        run = lambda h: {"logits": jnp.tanh(h) @ p["out"], **LOOKED_AT(h)}
        return WAYS[name](run, x @ p["in"])["logits"]

    graph = structured.trace(fn, PARAMS, X)
    assert units(graph) == {"in[1]": 8}
    exact(graph, PARAMS, X)


def test_what_a_scan_carries_for_nobody_pins_nothing():
    def fn(p, x):
        def turn(carry, w):
            h, seen = carry
            return (h + jnp.tanh(h @ w), seen + jnp.sort(h)), jnp.argmax(h, -1)

        h = x @ p["in"]
        return lax.scan(turn, (h, h), p["layers"])[0][0] @ p["out"]

    params = {**PARAMS, "layers": draw(3, 8, 8)}
    graph = structured.trace(fn, params, X)
    assert units(graph) == {"in[1]": 8}
    assert [block.name for block in structured.blocks(graph)] == [f"layers[{i}]" for i in range(3)]
    exact(graph, params, X)


def test_what_a_loop_carries_for_nobody_pins_nothing():
    """A loop without a known end, in a program of its own; one value is needed by another, two by none."""

    @jax.jit
    def run(h, w):
        def turn(carry):
            count, h, gate, seen, longest = carry
            seen = jnp.sort(seen + h, -1)
            return count + 1, jnp.tanh(h @ w) * gate, gate * 0.5, seen, jnp.maximum(longest, seen)

        start = (0, h, jnp.ones(()), jnp.sort(h, -1), h)
        return lax.while_loop(lambda carry: carry[0] < 3, turn, start)

    def fn(p, x):
        return run(x @ p["in"], p["w"])[1] @ p["out"]

    params = {**PARAMS, "w": draw(8, 8)}
    graph = structured.trace(fn, params, X)
    assert units(graph) == {"in[1]": 8}
    exact(graph, params, X)
    used = structured.trace(lambda p, x: run(x @ p["in"], p["w"])[4] @ p["out"], params, X)
    assert not used.groups


def test_what_is_printed_is_what_is_left():
    seen = []

    def fn(p, x):
        h = x @ p["in"]
        jax.debug.callback(lambda h: seen.append(h.shape), h)
        return h @ p["out"]

    small = exact(structured.trace(fn, PARAMS, X), PARAMS, X)
    jax.effects_barrier()
    seen.clear()
    jax.block_until_ready(small.apply(small.params, X))
    jax.effects_barrier()
    assert seen == [(5, 4)]


# Parameters that nobody reads.


def test_averages_beside_the_one_that_is_read_go_with_it():
    params = {**PARAMS, "ema": {"average": draw(8), "hidden": draw(8), "counter": jnp.zeros(())}}
    fn = lambda p, x: jnp.tanh(x @ p["in"] - p["ema"]["average"][None]) @ p["out"]
    graph = structured.trace(fn, params, X)
    small = exact(graph, params, X)
    assert small.params["ema"]["hidden"].shape == (4,)
    kept = small.plan.kept
    assert kept["ema/hidden"] == kept["ema/average"] == {0: kept["in"][1]}


def test_moments_go_with_their_parameters():
    """A TrainState as the parameters, with moments whose paths end like those of what they belong to."""
    state = {"params": PARAMS, "opt": optax.adam(0.1).init(PARAMS)}
    fn = lambda s, x: jax.nn.relu(x @ s["params"]["in"]) @ s["params"]["out"]
    graph = structured.trace(fn, state, X)
    assert units(graph) == {"params/in[1]": 8}
    assert {m.path for m in graph.groups[0].members} == {"params/in", "params/out"}
    small = exact(graph, state, X)
    assert small.params["opt"][0].mu["in"].shape == small.params["params"]["in"].shape == (3, 4)
    kept = small.plan.kept
    assert kept["opt/0/mu/in"] == kept["opt/0/nu/in"] == kept["params/in"]


def test_what_belongs_to_nobody_stays_whole():
    params = {**PARAMS, "head": draw(6, 4), "token": draw(1, 8), "pair": {"a": draw(8)}}
    params |= {"main": draw(3, 8)}
    fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    graph = structured.trace(fn, params, X)
    assert units(graph) == {"in[1]": 8}
    assert structured.pinned(graph)["head[1]"] == "no equation reads it"
    small = exact(graph, params, X)
    assert [small.params[name].shape for name in ("head", "token", "main")] == [
        (6, 4),
        (1, 8),
        (3, 8),
    ]


def test_an_averaged_network_goes_with_the_one_it_is_a_copy_of():
    net = lambda: {"a": {"kernel": draw(3, 8)}, "b": {"kernel": draw(8, 2)}}
    params = {"online": net(), "target": net(), "scale": draw(2)}
    apply = lambda own, x: jax.nn.relu(x @ own["a"]["kernel"]) @ own["b"]["kernel"]
    graph = structured.trace(lambda p, x: apply(p["online"], x) * p["scale"][None], params, X)
    small = exact(graph, params, X)
    assert small.plan.kept["target/a/kernel"] == small.plan.kept["online/a/kernel"]


def test_a_head_that_looks_like_another_by_chance_stays_whole():
    dense = lambda *shape: {"kernel": draw(*shape), "bias": draw(shape[1])}
    params = {"body": dense(3, 8), "head": dense(8, 8), "spare": dense(8, 8), "out": dense(8, 2)}

    def fn(p, x):
        for name in ("body", "head", "out"):
            x = jnp.tanh(x @ p[name]["kernel"] + p[name]["bias"][None])
        return x

    graph = structured.trace(fn, params, X)
    assert set(units(graph).values()) == {8}
    assert exact(graph, params, X).params["spare"]["kernel"].shape == (8, 8)


def test_a_neighbour_of_two_that_differ_stays_whole():
    params = {"m": {"a": draw(8), "b": draw(8), "unread": draw(8)}, "in": draw(3, 8)}
    params |= {"out": draw(8, 2), "second": draw(3, 8), "back": draw(8, 2)}

    def fn(p, x):
        first = jnp.tanh(x @ p["in"] * p["m"]["a"][None]) @ p["out"]
        return first + jnp.tanh(x @ p["second"] * p["m"]["b"][None]) @ p["back"]

    graph = structured.trace(fn, params, X)
    assert sorted(units(graph).values()) == [8, 8]
    assert exact(graph, params, X).params["m"]["unread"].shape == (8,)


# Names of what is pinned.


def grouped_norm(x, groups):
    y = x.reshape(len(x), groups, -1)
    return (y * lax.rsqrt((y**2).sum(-1, keepdims=True) + 1)).reshape(x.shape)


def test_conflicts_name_their_axes():
    """GroupNorm over a skip that is joined, with groups across the seam."""

    def fn(p, x):
        h = jnp.tanh(x @ p["down"])
        both = jnp.concatenate([grouped_norm(h, 4), x @ p["skip"]], 1)
        return jax.nn.relu(grouped_norm(both, 4) @ p["up"]) @ p["out"]

    params = {"down": draw(3, 16), "skip": draw(3, 8), "up": draw(24, 6), "out": draw(6, 2)}
    graph = structured.trace(fn, params, X)
    assert units(graph)["up[1]"] == 6
    line = next(line for line in graph.summary().splitlines() if "do not fit" in line)
    assert all(axis in line for axis in ("down[1]", "skip[1]", "up[0]")), line
    assert "out" not in line
    assert structured.pinned(graph)["down[1]"] == "reshapes that do not fit together"


def test_reasons():
    def fn(p, x):
        h = x @ p["in"]
        half = jnp.fft.fft(h[:, :4]).real
        return jnp.concatenate([half, h[:, 4:]], 1) @ p["out"]

    found = structured.pinned(structured.trace(fn, PARAMS, X))
    assert found == {
        "in[0]": "an input",
        "in[1]": "4 of 8: `fft`",
        "out[0]": "4 of 8: `fft`",
        "out[1]": "an output",
    }


# Explicit shardings.


@pytest.fixture
def mesh():
    mesh = jax.make_mesh((1,), ("tp",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        yield mesh


def test_an_explicit_mesh(mesh):
    """Products, reshapes, broadcasts, masks, lookups and tiles, each with a sharding of its own."""
    split, whole = PartitionSpec(None, "tp"), PartitionSpec()

    def fn(p, tokens):
        h = p["table"].at[tokens].get(out_sharding=PartitionSpec(None, None, None))
        h = jnp.einsum("bth,hk->btk", h, p["in"], out_sharding=PartitionSpec(None, None, "tp"))
        h = h.reshape(len(h), -1, 2, 4, out_sharding=PartitionSpec(None, None, "tp", None))
        h = jax.sharding.reshard(h, whole).reshape(len(h), -1, 8)
        inside = jnp.arange(h.shape[1])[None, :, None] < 3
        h = jnp.where(inside, jnp.tanh(h), 0)
        token = jax.sharding.reshard(jnp.broadcast_to(p["token"], (len(h), 1, 8)), whole)
        h = jnp.concatenate([jnp.tile(token, (1, 2, 1)), h], 1)
        return jnp.matmul(h.mean(1), p["out"], out_sharding=whole)

    shapes = {"table": (7, 6), "in": (6, 8), "token": (1, 1, 8), "out": (8, 2)}
    params = {name: draw(*shape) for name, shape in shapes.items()}
    params["in"] = jax.sharding.reshard(params["in"], split)
    tokens = jnp.arange(10).reshape(2, 5) % 7
    graph = structured.trace(fn, params, tokens)
    assert not graph.unknown
    assert len(graph.groups) >= 2
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    masked = fn(jp.masks.apply(params, masks), tokens)
    for apply in (small.apply, jax.jit(small.apply)):
        np.testing.assert_allclose(apply(small.params, tokens), masked, rtol=2e-5, atol=2e-6)
