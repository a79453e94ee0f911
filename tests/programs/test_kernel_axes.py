"""Inputs, outputs and layers of kernels, found in programs that nobody edits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp

WIDTH = 16
KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 8, WIDTH))
W = jax.random.normal(KEY, (WIDTH, WIDTH))
STACK = jnp.stack([W] * 3)
TOKENS = jnp.arange(8)[None]
PLAIN = ((0,), (1,), ())
STACKED = ((1,), (2,), (0,))


def scanned(params, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])[0]


def counted(params, x):
    return lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ params["w"][i]), x)


def counted_down(params, x):
    def body(carry):
        i, h = carry
        return i + 1, jnp.tanh(h @ params["w"][2 - i])

    return lax.while_loop(lambda carry: carry[0] < 3, body, (0, x))[1]


def weight_norm(params, x):
    size = jnp.linalg.norm(params["w"], axis=0, keepdims=True)
    return x @ (params["w"] / size * params["gain"])


def in_blocks(params, x):
    blocks = params["w"].reshape(4, 4, WIDTH).astype(jnp.float32)
    return x @ (blocks * params["scale"][:, None]).reshape(WIDTH, WIDTH)


def routed(params, x):
    expert = jnp.argmax(x[0, :, :3], -1)
    return jnp.einsum("td,tdf->tf", x[0], params["w"][expert])


def ragged(params, x):
    sizes = jnp.array([6, 6, 4], jnp.int32)
    return lax.ragged_dot(x.reshape(-1, WIDTH), params["w"], sizes)


def remat(params, x):
    return jax.checkpoint(lambda w, x: jnp.tanh(x @ w))(params["w"], x)


@jax.custom_vjp
def straight(x, w):
    return x @ w


straight.defvjp(lambda x, w: (straight(x, w), (x, w)), lambda kept, g: (g, kept[1]))

# name: (function, parameters, (in, out, batch) of "w")
FOUND = {
    "dense": (lambda p, x: x @ p["w"], {"w": W}, PLAIN),
    "stored [outputs, inputs]": (lambda p, x: x @ p["w"].T, {"w": W}, ((1,), (0,), ())),
    "batched data": (lambda p, x: jax.vmap(lambda row: row @ p["w"])(x), {"w": W}, PLAIN),
    "cast": (lambda p, x: x @ p["w"].astype(jnp.bfloat16), {"w": W}, PLAIN),
    "jit": (lambda p, x: jax.jit(lambda w: x @ w)(p["w"]), {"w": W}, PLAIN),
    "remat": (remat, {"w": W}, PLAIN),
    "custom derivative": (lambda p, x: straight(x, p["w"]), {"w": W}, PLAIN),
    "heads": (
        lambda p, x: jnp.einsum("btd,dhk->bthk", x, p["w"]),
        {"w": W.reshape(16, 2, 8)},
        ((0,), (1, 2), ()),
    ),
    "heads first": (
        lambda p, x: jnp.einsum("btd,hdk->bthk", x, p["w"]),
        {"w": W.reshape(2, 16, 8)},
        ((1,), (0, 2), ()),
    ),
    "out of heads": (
        lambda p, x: jnp.einsum("bthk,hkd->btd", x.reshape(2, 8, 2, 8), p["w"]),
        {"w": W.reshape(2, 8, 16)},
        ((0, 1), (2,), ()),
    ),
    "masked": (lambda p, x: x @ (p["w"] * (p["w"] > 0)), {"w": W}, PLAIN),
    "scaled": (lambda p, x: x @ (p["w"] * 0.5), {"w": W}, PLAIN),
    "standardised": (lambda p, x: x @ (p["w"] - p["w"].mean()), {"w": W}, PLAIN),
    "normalised": (weight_norm, {"w": W, "gain": W[:1]}, PLAIN),
    "quantised in blocks": (in_blocks, {"w": W.astype(jnp.int8), "scale": W[:4]}, PLAIN),
    "fused": (lambda p, x: jnp.split(x @ p["w"], 2, -1), {"w": W}, PLAIN),
    "slices": (lambda p, x: (x @ p["w"][:, :9], jnp.sin(x) @ p["w"][:, 9:]), {"w": W}, PLAIN),
    "reversed": (lambda p, x: x @ p["w"][::-1, ::-1], {"w": W}, PLAIN),
    "joined": (
        lambda p, x: x @ jnp.concatenate([p["w"], p["v"]], 1),
        {"w": W, "v": W},
        PLAIN,
    ),
    "one of a stack made here": (
        lambda p, x: x @ jnp.stack([p["w"], p["v"]])[0],
        {"w": W, "v": W},
        PLAIN,
    ),
    "indexed": (lambda p, x: jnp.tanh(x @ p["w"][0]) @ p["w"][1], {"w": STACK}, STACKED),
    "scan": (scanned, {"w": STACK}, STACKED),
    "scan over the second axis": (
        lambda p, x: scanned({"w": jnp.moveaxis(p["w"], 1, 0)}, x),
        {"w": STACK.transpose(1, 0, 2)},
        ((0,), (2,), (1,)),
    ),
    "scan over the last axis": (
        lambda p, x: scanned({"w": jnp.moveaxis(p["w"], -1, 0)}, x),
        {"w": STACK.transpose(1, 2, 0)},
        ((0,), (1,), (2,)),
    ),
    "fori": (counted, {"w": STACK}, STACKED),
    "while": (counted_down, {"w": STACK}, STACKED),
    "map": (lambda p, x: lax.map(lambda w: x @ w, p["w"]), {"w": STACK}, STACKED),
    "vmap": (
        lambda p, x: jax.vmap(jnp.matmul)(jnp.stack([x] * 3), p["w"]),
        {"w": STACK},
        STACKED,
    ),
    "ensemble": (
        lambda p, x: jax.vmap(lambda w, v: jnp.tanh(x @ w) @ v)(p["w"], p["v"]),
        {"w": STACK, "v": STACK},
        STACKED,
    ),
    "experts": (
        lambda p, x: jnp.einsum("ecd,edf->ecf", jnp.stack([x[0]] * 3), p["w"]),
        {"w": STACK},
        STACKED,
    ),
    "experts, ragged": (ragged, {"w": STACK}, STACKED),
    "experts, gathered": (routed, {"w": STACK}, STACKED),
    "condition": (
        lambda p, x: lax.cond(x.sum() > 0, lambda: x @ p["w"], lambda: x @ p["v"]),
        {"w": W, "v": W},
        PLAIN,
    ),
    "low-rank update": (
        lambda p, x: x @ (p["w"] + p["a"] @ p["b"]),
        {"w": W, "a": W[:, :2], "b": W[:2]},
        PLAIN,
    ),
}


def plain(own):
    return own.in_axis, own.out_axis, own.batch_axis


@pytest.mark.parametrize("name", FOUND)
def test_axes_are_found(name):
    apply, params, expected = FOUND[name]
    own = jp.axes(apply, jax.eval_shape(lambda: params), X)["w"]
    assert plain(own) == expected
    assert own.reason is None
    assert own.use == "kernel"


CONVOLUTIONS = {
    "1-D": (nn.Conv(5, (3,)), (2, 9, 4), ((1,), (2,), ())),
    "2-D": (nn.Conv(5, (3, 3)), (2, 9, 9, 4), ((2,), (3,), ())),
    "3-D": (nn.Conv(5, (3, 3, 3)), (2, 5, 5, 5, 4), ((3,), (4,), ())),
    "1x1": (nn.Conv(5, (1, 1)), (2, 9, 9, 4), ((2,), (3,), ())),
    "transposed": (nn.ConvTranspose(5, (3, 3)), (2, 9, 9, 4), ((2,), (3,), ())),
    "transposed kernel": (
        nn.ConvTranspose(5, (3, 3), transpose_kernel=True),
        (2, 9, 9, 4),
        ((3,), (2,), ()),
    ),
    "grouped": (nn.Conv(8, (3, 3), feature_group_count=2), (2, 9, 9, 4), ((2,), (3,), ())),
    "depthwise": (nn.Conv(4, (3, 3), feature_group_count=4), (2, 9, 9, 4), ((2,), (3,), ())),
    "unshared": (nn.ConvLocal(3, (3, 3)), (2, 5, 5, 4), ((2,), (3,), (0, 1))),
}


def of_module(module, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(module.init, KEY, x)["params"]
    return lambda p, x: module.apply({"params": p}, x), params, x


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_axes_of_convolutions(name):
    module, shape, expected = CONVOLUTIONS[name]
    own = jp.axes(*of_module(module, shape))
    assert plain(own["kernel"]) == expected
    assert own["bias"] is None


@pytest.mark.parametrize("shared", [True, False])
def test_an_ensemble_of_convolutions_has_its_members_for_layers(shared):
    first, second = nn.Conv(5, (3, 3)), nn.Conv(7, (3, 3))
    x = jnp.zeros((2, 9, 9, 4))
    keys = jax.random.split(KEY, 3)
    params = (
        jax.vmap(lambda key: first.init(key, x)["params"])(keys),
        jax.vmap(lambda key: second.init(key, jnp.zeros((2, 9, 9, 5)))["params"])(keys),
    )

    def member(params, x):
        return second.apply({"params": params[1]}, first.apply({"params": params[0]}, x))

    apply = jax.vmap(member, in_axes=(0, None if shared else 0))
    own = jp.axes(apply, params, x if shared else jnp.stack([x] * 3))
    assert plain(own[0]["kernel"]) == plain(own[1]["kernel"]) == ((3,), (4,), (0,))


def test_axes_of_attention_and_recurrence():
    own = jp.axes(*of_module(nn.MultiHeadDotProductAttention(2), (2, 5, 8)))
    assert plain(own["query"]["kernel"]) == ((0,), (1, 2), ())
    assert plain(own["out"]["kernel"]) == ((0, 1), (2,), ())
    assert own["query"]["bias"] is None
    own = jp.axes(*of_module(nn.RNN(nn.LSTMCell(4)), (2, 5, 8)))
    kernels = [own for own in jax.tree.leaves(own) if own is not None]
    assert len(kernels) == 8
    assert {plain(a) for a in kernels} == {PLAIN}


OPEN = {
    "a transpose of itself": lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T,
    "symmetrised": lambda p, x: x @ (p["w"] + p["w"].T),
}


@pytest.mark.parametrize("name", OPEN)
def test_what_the_program_leaves_open_has_a_reason(name):
    own = jp.axes(OPEN[name], {"w": W}, X)["w"]
    assert own.in_axis is None
    assert "axis 0" in own.reason


OTHER_USES = {
    "embedding": (lambda p, t: p["e"][t] @ p["w"], {"e": W, "w": W}, TOKENS, {"e": None}),
    "tied": (lambda p, t: p["e"][t] @ p["e"].T, {"e": W}, TOKENS, {"e": "table"}),
    "one-hot": (
        lambda p, t: jax.nn.one_hot(t, WIDTH) @ p["e"],
        {"e": W},
        TOKENS,
        {"e": "table"},
    ),
    "positions": (lambda p, x: (x + p["e"]) @ p["w"], {"e": X[:1], "w": W}, X, {"e": None}),
    "class token": (
        lambda p, x: jnp.concatenate([jnp.broadcast_to(p["e"], (2, 1, WIDTH)), x], 1) @ p["w"],
        {"e": X[:1, :1], "w": W},
        X,
        {"e": None, "w": "kernel"},
    ),
    "norm": (
        lambda p, x: scanned(p, x) * p["scale"][0][None, None],
        {"w": STACK, "scale": STACK[:, 0]},
        X,
        {"scale": None, "w": "kernel"},
    ),
    "low-rank update": (
        lambda p, x: x @ (p["w"] + p["a"] @ p["b"]),
        {"w": W, "a": W[:, :2], "b": W[:2]},
        X,
        {"w": "kernel", "a": "adapter", "b": "adapter"},
    ),
    "low-rank update beside": (
        lambda p, x: x @ p["w"] + p["bias"] + (x @ p["a"]) @ p["b"] * 2.0,
        {"w": W, "a": W[:, :2], "b": W[:2], "bias": X[:1, :1]},
        X,
        {"w": "kernel", "a": "adapter", "b": "adapter", "bias": None},
    ),
    "factors": (
        lambda p, x: x @ (p["a"] @ p["b"]),
        {"a": W[:, :2], "b": W[:2]},
        X,
        {"a": "factor", "b": "factor"},
    ),
    "first state of a recurrence": (
        lambda p, x: jnp.tanh(x @ p["a"] + (jnp.zeros((8, WIDTH)) @ p["w"] + p["bias"])[None]),
        {"a": W, "w": W, "bias": W[:1]},
        X,
        {"a": "kernel", "w": "kernel", "bias": None},
    ),
    "projected positions": (
        lambda p, x: (x + (p["e"] @ p["a"] + p["bias"])[None]) @ p["w"],
        {"e": W[:8], "a": W, "bias": W[:1], "w": W},
        X,
        {"e": None, "a": None, "bias": None, "w": "kernel"},
    ),
    "a bottleneck is none": (
        lambda p, x: x @ p["w"] + jnp.tanh(x @ p["a"]) @ p["b"],
        {"w": W, "a": W[:, :2], "b": W[:2]},
        X,
        {"w": "kernel", "a": "kernel", "b": "kernel"},
    ),
}


@pytest.mark.parametrize("name", OTHER_USES)
def test_what_is_no_kernel_is_told_apart(name):
    apply, params, x, expected = OTHER_USES[name]
    own = jp.axes(apply, params, x)
    uses = {leaf: None if own[leaf] is None else own[leaf].use for leaf in expected}
    assert uses == expected


def test_factors_are_open_as_a_layer_may_be_factorised_and_a_table_projected():
    own = jp.axes(lambda p, x: x @ (p["a"] @ p["b"]), {"a": W[:, :2], "b": W[:2]}, X)
    for leaf in own.values():
        assert leaf.in_axis is None
        assert "other parameters" in leaf.reason


def test_adapters_say_what_enters_and_leaves_each():
    params = {"w": W, "a": W[:2], "b": W[:, :2]}
    own = jp.axes(lambda p, x: x @ (p["w"] + (p["b"] @ p["a"]).T), params, X)
    assert plain(own["a"]) == plain(own["b"]) == ((1,), (0,), ())


IMAGE = jnp.ones((2, 9, 9, 3))
NUMBERS = ("NHWC", "HWIO", "NHWC")


def conv(x, w, groups=1):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=NUMBERS, feature_group_count=groups
    )


def scale_of_each_unit(p, x):
    return jnp.einsum("btf,f->btf", x @ p["w"], p["scale"]) @ p["v"]


def router(p, x):
    scores = jax.nn.softmax(x @ p["w"])
    hidden = jnp.einsum("bte,btd->betd", scores, x)
    return jnp.einsum("betd,edf->betf", hidden, p["v"])


def block_diagonal(p, x):
    heads = (x @ p["w"]).reshape(2, 8, 4, 4)
    return jnp.einsum("bthi,hij->bthj", heads, p["v"])


def attention(p, x):
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, p[name]) for name in ("w", "k", "v"))
    positions = jnp.einsum("bthk,rhk->bhtr", q, p["r"])
    scores = jax.nn.softmax(jnp.einsum("bqhk,bshk->bhqs", q, k) + positions)
    return jnp.einsum("bqhk,hkd->bqd", jnp.einsum("bhqs,bshk->bqhk", scores, v), p["o"])


def queries_that_are_learned(p, x):
    q = jnp.einsum("nd,dhk->nhk", p["latents"], p["q"])
    return jnp.einsum("nhk,bthk->bhnt", q, jnp.einsum("btd,dhk->bthk", x, p["w"]))


def quantised(p, x):
    return x @ (p["w"].astype(jnp.float32) * jnp.repeat(p["scale"], 4, axis=0))


HEADS, BACK = W.reshape(16, 4, 4), W.reshape(4, 4, 16)
QKV = ((0,), (1, 2), ())
# name: (function, parameters, input, axes of some leaves; `None`: in no product, "open": with a reason)
HARD = {
    "scale by einsum": (
        scale_of_each_unit,
        {"w": W, "scale": W[0], "v": W},
        X,
        {"w": PLAIN, "scale": None, "v": PLAIN},
    ),
    "router": (router, {"w": W[:, :3], "v": STACK}, X, {"w": PLAIN, "v": STACKED}),
    "block-diagonal": (block_diagonal, {"w": W, "v": HEADS[:4]}, X, {"w": PLAIN}),
    "attention with relative keys": (
        attention,
        {"w": HEADS, "k": HEADS, "v": HEADS, "r": HEADS[:8], "o": BACK},
        X,
        {"w": QKV, "k": QKV, "v": QKV, "o": ((0, 1), (2,), ())},
    ),
    "learned queries": (
        queries_that_are_learned,
        {"latents": W[:3], "q": HEADS, "w": HEADS},
        X,
        {"w": QKV, "q": "open"},
    ),
    "times a constant matrix": (lambda p, x: x @ (p["w"] @ jnp.cos(W)), {"w": W}, X, {"w": PLAIN}),
    "a constant matrix times": (lambda p, x: x @ (jnp.cos(W) @ p["w"]), {"w": W}, X, {"w": PLAIN}),
    "resized table": (
        lambda p, x: (x + jax.image.resize(p["table"], (1, 8, 16), "bilinear")) @ p["w"],
        {"table": X[:1, :4], "w": W},
        X,
        {"table": None, "w": PLAIN},
    ),
    "layers merged into rows": (
        lambda p, x: scanned({"w": p["w"].reshape(3, 16, 16)}, x),
        {"w": STACK.reshape(48, 16)},
        X,
        {"w": "open"},
    ),
    "scales of groups": (
        quantised,
        {"w": W.astype(jnp.int8), "scale": W[:4]},
        X,
        {"w": PLAIN, "scale": None},
    ),
    "one of two kernels": (
        lambda p, x: x @ lax.cond(x.sum() > 0, lambda: p["w"], lambda: p["v"]),
        {"w": W, "v": W},
        X,
        {"w": PLAIN, "v": PLAIN},
    ),
    "kernels mixed by the inputs": (
        lambda p, x: jnp.einsum(
            "bti,bio->bto", x, jnp.einsum("bk,kio->bio", jax.nn.softmax(x[:, 0, :3]), p["w"])
        ),
        {"w": STACK},
        X,
        {"w": "open"},
    ),
    "inputs merged in another order": (
        lambda p, x: x @ p["w"].transpose(1, 0, 2).reshape(16, 6),
        {"w": jnp.ones((4, 4, 6))},
        X,
        {"w": "open"},
    ),
    "tiled": (lambda p, x: x @ jnp.tile(p["w"], (1, 2)), {"w": W}, X, {"w": PLAIN}),
    "planes of a board": (lambda p, x: (x == 1.0) @ p["w"], {"w": W}, X, {"w": PLAIN}),
    "depthwise by einsum": (
        lambda p, x: jnp.einsum("btd,td->bd", x @ p["w"], p["v"]),
        {"w": W, "v": W[:8]},
        X,
        {"w": PLAIN, "v": PLAIN},
    ),
    "depthwise, [h, w, channels, multiplier]": (
        lambda p, x: conv(conv(x, p["w"]), p["v"].reshape(3, 3, 1, 8), 4),
        {"w": jnp.ones((1, 1, 3, 4)), "v": jnp.ones((3, 3, 4, 2))},
        IMAGE,
        {"w": ((2,), (3,), ()), "v": ((), (2, 3), ())},
    ),
    "one output, stored without its axis": (
        lambda p, x: conv(x, p["w"].reshape(3, 3, 3, 1)),
        {"w": jnp.ones((3, 3, 3))},
        IMAGE,
        {"w": ((2,), (), ())},
    ),
}


@pytest.mark.parametrize("name", HARD)
def test_programs_that_look_like_others(name):
    apply, params, x, expected = HARD[name]
    own = jp.axes(apply, params, x)
    for leaf, axes in expected.items():
        if axes == "open":
            assert own[leaf].in_axis is None
            assert own[leaf].reason
        else:
            assert (None if own[leaf] is None else plain(own[leaf])) == axes, leaf


def test_expressions_reach_every_module():
    params = {"enc": {"mlp": {"w": W}}, "dec": {"mlp": {"w": W}}, "w": W}
    assert jp.kernel_axes.of_leaves({"mlp/w": jp.Axes(1, 0)}, params) == [
        jp.Axes(1, 0),
        jp.Axes(1, 0),
        None,
    ]
    assert jp.kernel_axes.of_leaves({"w": jp.Axes(1, 0)}, params) == [jp.Axes(1, 0)] * 3


def test_axes_of_one_of_several_alike_parts_are_refused():
    params = {"enc": {"mlp": {"w": W}}, "dec": {"mlp": {"w": W}}}
    with pytest.raises(ValueError, match="which part of the tree is meant, 'dec', 'enc'"):
        jp.kernel_axes.of_leaves({"mlp": {"w": jp.Axes(1, 0)}}, params)


def test_an_operation_without_a_rule_is_named():
    def apply(params, x):
        return lax.linalg.triangular_solve(params["w"], x[0].T, left_side=True)

    own = jp.axes(apply, {"w": W}, X)["w"]
    assert own.in_axis is None
    assert "triangular_solve" in own.reason


def test_axes_by_hand():
    params = {"a": {"kernel": STACK}, "b": {"kernel": W}, "c": {"bias": W[0]}}
    given = {"a/": jp.Axes(in_axis=-2, out_axis=-1, batch_axis=0), "b/": jp.Axes(0, 1)}
    found = jp.kernel_axes.of_leaves(given, params)
    assert [None if own is None else plain(own) for own in found] == [STACKED, PLAIN, None]


def test_axes_are_matched_by_path():
    variables = {"params": {"a": {"kernel": W}}, "batch_stats": {"a": {"mean": W[0]}}}
    whole = {"params": {"a": {"kernel": jp.Axes(0, 1)}}, "batch_stats": {"a": {"mean": None}}}
    for given in (whole, whole["params"]):
        assert jp.kernel_axes.of_leaves(given, variables["params"]) == [jp.Axes(0, 1)]
        assert jp.kernel_axes.of_leaves(given, variables) == [None, jp.Axes(0, 1)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": jp.Axes(0, 1)}, "'x' is no path .* matches none of 'w'"),
        ({"[": jp.Axes(0, 1)}, r"axes: '\[' is no regular expression"),
        ({"w": jp.Axes(0, 2)}, "'w' has the shape .* names other axes"),
        ({"w": jp.Axes(0, -2)}, "names an axis of 'w', .* twice"),
        ({"w": (0, 1)}, r"0 is not a jaxprune\.Axes"),
        ("w", r"'w' is not a jaxprune\.Axes"),
    ],
)
def test_axes_that_do_not_fit_are_refused(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        jp.kernel_axes.of_leaves(given, {"w": W})


def test_axes_are_integers():
    assert jp.Axes(np.int64(0), [1, 2]) == jp.Axes(in_axis=(0,), out_axis=(1, 2))
    with pytest.raises(TypeError, match="integers"):
        jp.Axes("a", 1)
