"""Effective weights against paths counted by hand, and against the network without the others."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.metrics import effective


def mlp(p, x):
    for name in sorted(p):
        x = x @ p[name]["kernel"] + p[name]["bias"][None]
        x = jax.nn.relu(x) if name != max(p) else x
    return x


def network(sizes, sparsity, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    layers = zip(keys, sizes, sizes[1:], strict=False)
    params = {
        f"fc{i}": {"kernel": jax.random.normal(k, (a, b)), "bias": jnp.zeros(b)}
        for i, (k, a, b) in enumerate(layers)
    }
    masks = jp.masks.make(params)
    draw = lambda m: jax.random.bernoulli(keys[-1], 1 - sparsity, m.shape)
    return params, jax.tree.map(draw, masks)


def by_reachability(masks):
    """Weights between a unit that an input reaches and one that reaches an output."""
    kernels = [np.asarray(m["kernel"]) for m in masks.values()]
    ahead, behind = [np.ones(kernels[0].shape[0], bool)], [np.ones(kernels[-1].shape[1], bool)]
    for k in kernels:
        ahead.append((k & ahead[-1][:, None]).any(0))
    for k in kernels[::-1]:
        behind.append((k & behind[-1]).any(1))
    behind = behind[::-1]
    return [k & a[:, None] & b for k, a, b in zip(kernels, ahead, behind[1:], strict=False)]


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.97])
def test_weights_on_paths_are_those_that_a_search_finds(sparsity):
    params, masks = network((20, 30, 25, 5), sparsity)
    found = effective(mlp, params, masks, jnp.zeros((1, 20)))
    for name, by_hand in zip(found, by_reachability(masks), strict=True):
        np.testing.assert_array_equal(found[name]["kernel"], by_hand)
        assert found[name]["bias"] is None
    if sparsity == 0.97:
        assert jp.masks.sparsity(found) > jp.masks.sparsity(masks), "some lead nowhere"


def test_what_is_not_effective_changes_nothing():
    params, masks = network((20, 30, 25, 5), 0.95, seed=1)
    x = jax.random.normal(jax.random.key(2), (8, 20))
    found = effective(mlp, params, masks, x)
    sparse, smaller = (mlp(jp.masks.apply(params, m), x) for m in (masks, found))
    np.testing.assert_allclose(sparse, smaller, rtol=1e-6)


def test_a_cut_layer_leaves_nothing():
    params, masks = network((4, 5, 3), 0.0)
    masks["fc1"]["kernel"] = jnp.zeros((5, 3), bool)
    found = effective(mlp, params, masks, jax.ShapeDtypeStruct((1, 4), jnp.float32))
    assert float(jp.masks.sparsity(found)) == 1.0


def test_convolutions_pooling_and_unmasked_layers():
    model = jp.nn.lenet5_caffe()
    x = jnp.zeros((1, 28, 28, 1))
    params = model.init(jax.random.key(0), x)["params"]
    masks = jp.masks.make(params, "conv")
    masks["conv2"]["kernel"] = masks["conv2"]["kernel"].at[:, :, 3].set(False)
    found = effective(lambda p, x: model.apply({"params": p}, x), params, masks, x)
    dead = ~np.asarray(found["conv1"]["kernel"])
    assert dead[..., 3].all(), "nothing reads this map"
    assert not np.delete(dead, 3, -1).any()
    assert found["fc1"]["kernel"] is None


@pytest.mark.parametrize("norm", [linen.LayerNorm, linen.softmax])
def test_what_hides_paths_is_refused(norm):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Dense(4)(x)
            return linen.Dense(2)(norm()(x) if norm is linen.LayerNorm else norm(x))

    params = Net().init(jax.random.key(0), jnp.zeros((1, 3)))["params"]
    masks = jp.masks.make(params)
    with pytest.raises(ValueError, match="the dense network have no effect"):
        effective(lambda p, x: Net().apply({"params": p}, x), params, masks, jnp.zeros((1, 3)))


class Normalised(linen.Module):
    """Two convolutions with BatchNorm, around which the input goes."""

    @linen.compact
    def __call__(self, x, train=False):
        y = linen.Conv(3, (3, 3))(x)
        y = linen.relu(linen.BatchNorm(use_running_average=not train)(y))
        y = linen.BatchNorm(use_running_average=not train)(linen.Conv(3, (3, 3))(y))
        return linen.Dense(2)((x + y).mean((1, 2)))


def test_taps_that_meet_padding_alone_are_no_obstacle():
    """The last stage of a small network: windows of 3 x 3 on maps of 1 x 1."""

    def convolve(images, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=layout
        )

    def apply(params, images):
        whole = (1, 4, 4, 1)
        hidden = jax.nn.relu(convolve(images, params["first"]))
        pooled = jax.lax.reduce_window(hidden, -jnp.inf, jax.lax.max, whole, whole, "VALID")
        return jax.nn.relu(convolve(pooled, params["last"])).mean((1, 2)) @ params["out"]

    params = {
        "first": jnp.ones((3, 3, 3, 6)),
        "last": jnp.ones((3, 3, 6, 6)),
        "out": jnp.ones((6, 2)),
    }
    masks = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
    masks["last"] = masks["last"].at[1, 1, 2, 3].set(False)
    found = jp.metrics.effective(apply, params, masks, jnp.ones((2, 4, 4, 3)))
    assert found["first"].all()
    assert found["out"].all()
    centre = jnp.zeros((3, 3, 1, 1), bool).at[1, 1].set(True)
    assert (found["last"] == (masks["last"] & centre)).all()


def test_statistics_of_batchnorm_are_no_obstacle():
    model = Normalised()
    x = jnp.zeros((1, 4, 4, 3))
    variables = dict(jax.jit(model.init)(jax.random.key(0), x))
    variables["batch_stats"] = jax.tree.map(lambda s: s + 2.0, variables["batch_stats"])
    masks = {
        "params": jp.masks.make(variables["params"]),
        "batch_stats": jax.tree.map(lambda s: None, variables["batch_stats"]),
    }
    found = effective(lambda v, x: model.apply(v, x, train=False), variables, masks, x)
    assert float(jp.masks.sparsity(found)) == 0.0


def test_depth_does_not_drown_paths():
    params = {f"fc{i:02d}": {"kernel": jnp.eye(64), "bias": jnp.zeros(64)} for i in range(40)}
    masks = jax.tree.map(lambda w: w != 0 if w.ndim == 2 else None, params)
    found = effective(mlp, params, masks, jnp.zeros((1, 64)))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, found, masks))


def test_a_constant_is_no_source():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2), "v": jnp.ones((2, 1))}
    masks = {"w": jnp.array([[True, False], [True, False]]), "b": None, "v": jnp.ones((2, 1), bool)}
    apply = lambda p, x: jax.nn.relu(x @ p["w"] + p["b"][None]) @ p["v"]
    assert effective(apply, params, masks, jnp.zeros((1, 2)))["v"].tolist() == [[True], [False]]


def test_integer_and_bfloat16_leaves_and_packed_masks():
    params = {"w": jnp.ones((3, 2), jnp.bfloat16), "n": jnp.arange(2)}
    masks = jp.masks.pack({"w": jnp.array([[True, False]] * 3), "n": None})
    apply = lambda p, x: x @ p["w"]
    found = effective(apply, params, masks, jnp.zeros((1, 3), jnp.bfloat16))
    assert found["w"].tolist() == [[True, False]] * 3


def test_scanned_is_written_out_however_deep():
    """The layers of a stack are normalised one by one: their product does not vanish."""
    depth, width = 40, 4
    mask = jnp.ones((depth, width, width), bool).at[:, :, 1].set(False).at[3, 2].set(False)

    def scanned(params, x):
        return jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, params["layers"])[0]

    def separate(params, x):
        for i in range(depth):
            x = jax.nn.relu(x @ params[f"layer_{i:02}"])
        return x

    masks = {f"layer_{i:02}": mask[i] for i in range(depth)}
    x, ones = jnp.ones((1, width)), lambda tree: jax.tree.map(lambda m: jnp.ones(m.shape), tree)
    found = effective(scanned, ones({"layers": mask}), {"layers": mask}, x)["layers"]
    expected = effective(separate, ones(masks), masks, x)
    for i in range(depth):
        assert (found[i] == expected[f"layer_{i:02}"]).all()
    assert not jnp.array_equal(found, mask)
