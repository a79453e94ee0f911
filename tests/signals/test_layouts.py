"""Moments and Gram matrices of kernels in any layout, against those that NumPy computes by hand."""

import functools

import jax
import jax.numpy as jnp
import network_zoo
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from programs.test_kernel_axes import CONVOLUTIONS, FOUND, OTHER_USES, STACK, TOKENS, W, X, ragged

import jaxprune as jp
from jaxprune import signals

ROWS = np.asarray(X, np.float64).reshape(-1, 16)
KERNEL = np.asarray(W, np.float64)


def gram(*rows):
    """The mean of x x^T over the rows of each layer, `[layers, n, n]`."""
    return np.stack([own.T @ own / len(own) if len(own) else np.zeros((16, 16)) for own in rows])


def hidden(kernels):
    """What enters each of three layers with tanh between them."""
    found = [ROWS]
    for kernel in kernels[:2]:
        found.append(np.tanh(found[-1] @ kernel))
    return found


LAYERS = hidden([KERNEL] * 3)
RUNS = [ROWS[:6], ROWS[6:12], ROWS[12:]]
SHARED = [ROWS] * 3
# Rows that enter each layer of the kernel, if it is not the plain `x`.
ENTERS = {
    "indexed": [LAYERS[0], LAYERS[1], ROWS[:0]],
    **dict.fromkeys(
        ["scan", "scan over the second axis", "scan over the last axis", "fori"], LAYERS
    ),
    **dict.fromkeys(["map", "vmap", "ensemble"], SHARED),
    "reversed": [ROWS[:, ::-1]],
    "experts": [ROWS[:8]] * 3,
    "experts, ragged": RUNS,
}
NOT_FOUND = ["while", "experts, gathered"]
SLICED = "slices"
# Whether the sum of the inputs is positive decides; the other branch has seen nothing.
BRANCH = float(X.sum()) > 0


@pytest.mark.parametrize("name", [n for n in FOUND if n not in (*NOT_FOUND, SLICED, "condition")])
def test_every_layout_has_the_statistics_of_the_plain_one(name):
    apply, params, (inputs, outputs, layers) = FOUND[name]
    expected = gram(*ENTERS.get(name, [ROWS]))
    moments = np.diagonal(expected, axis1=1, axis2=2)
    w = params["w"]
    order = (*layers, *inputs, *outputs)
    sizes = [w.shape[axis] for axis in (*layers, *inputs)]
    found = signals.input_moments(apply, params, [X])["w"]
    assert found.shape == tuple(1 if a in outputs else n for a, n in enumerate(w.shape))
    found = np.asarray(found).transpose(order).reshape(sizes)
    np.testing.assert_allclose(found, moments.reshape(sizes), rtol=1e-5, atol=1e-7)
    found = signals.grams(apply, params, [X])["w"]
    expected = expected if layers else expected[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NOT_FOUND)
def test_what_is_not_known_is_not_found(name):
    apply, params, _ = FOUND[name]
    assert signals.input_moments(apply, params, [X])["w"] is None
    assert signals.grams(apply, params, [X])["w"] is None


def test_slices_of_a_kernel_have_their_own_inputs():
    apply, params, _ = FOUND["slices"]
    found = signals.input_moments(apply, params, [X])["w"]
    np.testing.assert_allclose(found[:, :9], np.tile((ROWS**2).mean(0)[:, None], 9), rtol=1e-5)
    sines = np.sin(ROWS) ** 2
    np.testing.assert_allclose(found[:, 9:], np.tile(sines.mean(0)[:, None], 7), rtol=1e-5)
    assert signals.grams(apply, params, [X])["w"] is None


def test_slices_with_one_input_are_one_kernel():
    apply = lambda p, x: (x @ p["w"][:, :9], x @ p["w"][:, 9:])
    assert signals.input_moments(apply, {"w": W}, [X])["w"].shape == (16, 1)
    np.testing.assert_allclose(
        signals.grams(apply, {"w": W}, [X])["w"], gram(ROWS)[0], rtol=1e-5, atol=1e-6
    )


def test_slices_of_the_inputs_have_moments_and_no_gram():
    apply = lambda p, x: x[..., :5] @ p["w"][:5] + jnp.sin(x[..., 5:]) @ p["w"][5:]
    expected = np.concatenate([ROWS[:, :5], np.sin(ROWS[:, 5:])], 1)
    found = signals.input_moments(apply, {"w": W}, [X])["w"]
    np.testing.assert_allclose(found[:, 0], (expected**2).mean(0), rtol=1e-5)
    assert signals.grams(apply, {"w": W}, [X])["w"] is None


def test_a_permuted_kernel_is_put_back():
    apply = lambda p, x: x @ p["w"][::-1, ::2]
    found = signals.input_moments(apply, {"w": W}, [X])["w"]
    expected = np.zeros((16, 16))
    expected[:, ::2] = (ROWS**2).mean(0)[::-1, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    whole = lambda p, x: x @ p["w"][::-1]
    found = signals.grams(whole, {"w": W}, [X])["w"]
    np.testing.assert_allclose(found, gram(ROWS)[0][::-1, ::-1], rtol=1e-5, atol=1e-6)


def test_only_the_branch_that_is_taken_counts():
    apply, params, _ = FOUND["condition"]
    found = signals.grams(apply, params, [X])
    taken, other = ("w", "v") if BRANCH else ("v", "w")
    np.testing.assert_allclose(found[taken], gram(ROWS)[0], rtol=1e-5, atol=1e-6)
    assert not found[other].any()
    both = signals.grams(apply, params, [X, -X, -X])
    np.testing.assert_allclose(both[other], gram(ROWS)[0], rtol=1e-5, atol=1e-6)


def test_a_tied_embedding_is_a_kernel_once():
    apply, params, tokens, _ = OTHER_USES["tied"]
    rows = KERNEL[:8]
    found = signals.input_moments(apply, params, [tokens])["e"]
    np.testing.assert_allclose(found[0], (rows**2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        signals.grams(apply, params, [TOKENS])["e"], gram(rows)[0], rtol=1e-5, atol=1e-6
    )


def test_a_kernel_shared_by_iterations_has_the_mean_over_them():
    apply = lambda p, x: lax.scan(lambda h, _: (jnp.tanh(h @ p["w"]), None), x, length=3)[0]
    found = signals.grams(apply, {"w": W}, [X])["w"]
    np.testing.assert_allclose(found, gram(*LAYERS).mean(0), rtol=1e-5, atol=1e-6)


def test_a_transpose_of_itself_has_moments_and_no_gram():
    apply = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T
    found = signals.input_moments(apply, {"w": W}, [X])["w"]
    first = (ROWS**2).mean(0)[:, None]
    second = (LAYERS[1] ** 2).mean(0)[None]
    np.testing.assert_allclose(found, (first + second) / 2, rtol=1e-5)
    assert signals.grams(apply, {"w": W}, [X])["w"] is None


def nested(params, x):
    """Two groups of layers, of which each is run through, and a condition in each."""

    def layer(h, w):
        return lax.cond(h.sum() > -1e9, lambda: jnp.tanh(h @ w), lambda: h), None

    return lax.scan(lambda h, group: lax.scan(layer, h, group), x, params["w"])[0]


def test_loops_and_conditions_in_loops():
    stack = jax.random.normal(jax.random.key(1), (2, 2, 16, 16))
    entering = [ROWS]
    for kernel in np.asarray(stack, np.float64).reshape(4, 16, 16)[:3]:
        entering.append(np.tanh(entering[-1] @ kernel))
    found = signals.grams(nested, {"w": stack}, [X])["w"]
    expected = gram(*entering).reshape(2, 2, 16, 16)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def backwards(params, x):
    """Layers 3, 2, 1 by an index that the program computes, two kernels in one stack."""

    def body(i, h):
        w = lax.dynamic_index_in_dim(params["w"], 2 - i, 1, keepdims=False)
        return jnp.tanh(h @ w.reshape(16, 16))

    return lax.fori_loop(0, 3, body, x)


def test_layers_by_a_computed_index():
    stack = jax.random.normal(jax.random.key(1), (16, 3, 4, 4))
    kernels = np.asarray(stack, np.float64).transpose(1, 0, 2, 3).reshape(3, 16, 16)
    found = signals.grams(backwards, {"w": stack}, [X])["w"]
    expected = gram(*hidden(kernels[::-1])[::-1])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    found = signals.input_moments(backwards, {"w": stack}, [X])["w"]
    assert found.shape == (16, 3, 1, 1)
    moments = np.diagonal(expected, axis1=1, axis2=2).T
    np.testing.assert_allclose(found[:, :, 0, 0], moments, rtol=1e-4)


def test_an_expert_has_the_mean_over_its_own_rows():
    def apply(params, batch):
        return lax.ragged_dot(batch["x"], params["w"], batch["sizes"][0])

    sizes = [[3, 5, 0], [1, 0, 0]]  # rows behind the last run belong to nobody
    batches = [
        {"x": jnp.asarray(ROWS[:8], jnp.float32), "sizes": jnp.array([sizes[0]] * 8)},
        {"x": jnp.asarray(ROWS[8:16], jnp.float32), "sizes": jnp.array([sizes[1]] * 8)},
    ]
    rows = [np.concatenate([ROWS[:3], ROWS[8:9]]), ROWS[3:8], ROWS[:0]]
    found = signals.grams(apply, {"w": STACK}, batches)["w"]
    np.testing.assert_allclose(found, gram(*rows), rtol=1e-5, atol=1e-6)
    moments = signals.input_moments(apply, {"w": STACK}, batches)["w"]
    np.testing.assert_allclose(moments[2], 0)
    np.testing.assert_allclose(moments[0, :, 0], (rows[0] ** 2).mean(0), rtol=1e-5)


def patches_of(x, kernel, spatial, groups):
    """`[groups, rows, window, channels]`, of a convolution with SAME padding and stride 1."""
    low = [(0, 0), *(((k - 1) // 2, k // 2) for k in kernel), (0, 0)]
    padded = np.pad(np.asarray(x, np.float64), low)
    places = np.ndindex(*kernel)
    parts = [
        padded[(slice(None), *(slice(p, p + n) for p, n in zip(place, spatial, strict=True)))]
        for place in places
    ]
    rows = np.stack(parts, -2).reshape(-1, int(np.prod(kernel)), groups, x.shape[-1] // groups)
    return rows.transpose(2, 0, 1, 3)


@pytest.mark.parametrize("name", ["1-D", "2-D", "3-D", "1x1", "grouped", "depthwise"])
def test_convolutions_have_the_statistics_of_their_patches(name):
    module, shape, _ = CONVOLUTIONS[name]
    x = jax.random.normal(jax.random.key(0), shape)
    params = module.init(jax.random.key(1), x)["params"]
    apply = lambda p, x: module.apply({"params": p}, x)
    kernel = params["kernel"].shape
    groups = module.feature_group_count
    rows = patches_of(x, kernel[:-2], shape[1:-1], groups)
    moments = (rows**2).mean(1)  # [groups, window, channels]
    expected = np.repeat(moments, kernel[-1] // groups, 0) if groups > 1 else moments
    expected = np.moveaxis(expected, 0, -1).reshape(*kernel[:-1], -1)
    found = signals.input_moments(apply, params, [x])["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    matrix = signals.grams(apply, params, [x])["kernel"]
    if groups > 1:
        assert matrix is None
        return
    flat = rows[0].reshape(len(rows[0]), -1)
    np.testing.assert_allclose(matrix, flat.T @ flat / len(flat), rtol=1e-4, atol=1e-5)


def test_members_of_an_ensemble_of_convolutions_have_their_own():
    module = nn.Conv(5, (3, 3), use_bias=False)
    x = jax.random.normal(jax.random.key(0), (3, 2, 6, 6, 4))
    params = jax.vmap(lambda key: module.init(key, x[0])["params"])(
        jax.random.split(jax.random.key(1), 3)
    )
    apply = jax.vmap(lambda p, x: module.apply({"params": p}, x))
    second = lambda p, x: jnp.tanh(apply(p, x))
    found = signals.grams(second, params, [x])["kernel"]
    moments = signals.input_moments(second, params, [x])["kernel"]
    assert moments.shape == (3, 3, 3, 4, 1)
    for member in range(3):
        rows = patches_of(x[member], (3, 3), (6, 6), 1)[0].reshape(72, -1)
        np.testing.assert_allclose(found[member], rows.T @ rows / 72, rtol=1e-4, atol=1e-5)


def attention(params, x):
    x = x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True))
    q, k, v = (
        jnp.einsum("btd,dhk->bthk", x.astype(jnp.bfloat16).astype(jnp.float32), params[name])
        for name in sorted(set("qkv") & set(params))
    )
    return q + k * v


def test_kernels_with_one_input_share_one_matrix():
    heads = W.reshape(16, 2, 8)
    params = {**dict.fromkeys("qkv", heads), "out": W}
    apply = lambda p, x: attention(p, x).reshape(2, 8, 16) @ p["out"]
    found = signals.grams(apply, params, [X])
    assert found["q"] is found["k"] is found["v"]
    assert found["q"].shape == found["out"].shape == (16, 16)
    assert found["out"] is not found["q"]


def test_kernels_with_one_input_share_one_matrix_in_a_loop():
    def block(h, w):
        return jnp.tanh(h @ w["gate"] * (h @ w["up"])) @ w["down"].T, None

    params = {"gate": STACK, "up": STACK, "down": STACK}
    found = signals.grams(lambda p, x: lax.scan(block, x, p)[0], params, [X])
    assert found["gate"] is found["up"]
    assert found["down"] is not found["up"]
    assert found["down"].shape == (3, 16, 16)


@pytest.mark.parametrize("stacked", [False, True])
def test_what_is_computed_does_not_grow_with_the_kernels_of_an_input(stacked):
    def apply(params, x):
        layer = lambda h, own: (jnp.tanh(sum(h @ w for w in own.values())), None)
        return lax.scan(layer, x, params)[0] if stacked else layer(x, params)[0]

    def compiled(names):
        params = dict.fromkeys(names, STACK if stacked else W)
        matrices = jax.jit(lambda p, x: signals.activations._grams(apply, p, x))
        return matrices.lower(params, X).compile()

    one, three = compiled("q"), compiled("qkv")
    outputs = lambda program: program.memory_analysis().output_size_in_bytes
    assert outputs(one) == outputs(three)
    if not stacked:  # where the products themselves are needed for the layers behind
        assert one.as_text().count(" dot(") == three.as_text().count(" dot(")


def test_outputs_and_scales_of_stacked_layers():
    keys = jax.random.split(jax.random.key(2), 2)
    params = {
        "w": jax.random.normal(keys[0], (3, 16, 16)),
        "s": jax.random.normal(keys[1], (3, 16)),
    }

    def unrolled(p, x):
        for w, s in zip(p["w"], p["s"], strict=True):
            x = jax.nn.relu((x @ w) * s[None, None])
        return x

    def looped(p, x):
        layer = lambda h, own: (jax.nn.relu((h @ own["w"]) * own["s"][None, None]), None)
        return lax.scan(layer, x, p)[0]

    h = ROWS
    means = []
    for w, s in zip(np.asarray(params["w"]), np.asarray(params["s"]), strict=True):
        h = np.maximum(h @ w * s, 0)
        means.append(h.mean(0))
    for apply in (unrolled, looped):
        found = signals.outputs(apply, params, [X[:1], X[1:]])
        assert found.unit_means["w"].shape == (3, 1, 16)
        np.testing.assert_allclose(found.unit_means["w"][:, 0], means, rtol=1e-4, atol=1e-5)
        scales = signals.batchnorm_scales(apply, params, X)
        np.testing.assert_array_equal(scales["w"][:, 0], np.abs(params["s"]))
        assert scales["s"] is None


def test_outputs_of_a_transposed_kernel():
    found = signals.outputs(lambda p, x: jax.nn.relu(x @ p["w"].T), {"w": W}, [X])
    expected = np.maximum(ROWS @ KERNEL.T, 0)
    np.testing.assert_allclose(found.unit_means["w"][:, 0], expected.mean(0), rtol=1e-5)
    assert found.unit_entropies["w"].shape == (16, 1)


def test_ragged_experts_in_the_table_are_those_of_this_file():
    assert FOUND["experts, ragged"][0] is ragged
    assert jp.axes(ragged, {"w": STACK}, X)["w"].batch_axis == (0,)


@pytest.mark.parametrize(
    "name", ["grouped convolution", "llama", "lstm and gru", "scan and remat", "experts"]
)
def test_every_kernel_that_has_axes_has_moments(name):
    apply, params, x = network_zoo.model(name)
    axes = jp.masks.beside(params, jp.axes(apply, params, x))
    moments = jax.eval_shape(functools.partial(signals.activations._moments, apply), params, x)
    assert sorted(moments) == [leaf for leaf, own in enumerate(axes) if own is not None]
    for leaf, w in enumerate(jax.tree.leaves(params)):
        if leaf in moments:
            own = axes[leaf]
            lengths = moments[leaf].total.shape
            assert np.broadcast_shapes(lengths, w.shape) == w.shape
            assert all(lengths[a] == w.shape[a] for a in (*own.in_axis, *own.batch_axis))
