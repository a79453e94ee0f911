"""Units whose biases are alive leave constants; folded into what follows, nothing is lost."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_zoo import drawn

import jaxprune as jp
from jaxprune import structured


class Net(nn.Module):
    padding: str = "VALID"

    @nn.compact
    def __call__(self, x):
        norm = lambda: nn.BatchNorm(use_running_average=True)
        x = nn.relu(nn.Conv(6, (3, 3), padding="VALID")(x))
        x = nn.relu(norm()(nn.Conv(8, (3, 3), padding=self.padding, use_bias=False)(x)))
        x = nn.relu(nn.Dense(10)(x.reshape(len(x), -1)))
        x = nn.relu(nn.Dense(6)(x))
        return nn.Dense(3)(x)


X = jax.random.normal(jax.random.key(0), (4, 6, 6, 2))


def masked_kernels(model):
    """Half of each hidden layer's units lose their inputs; who reads them, biases and statistics do not."""
    variables = drawn(model.init(jax.random.key(1), X))
    graph = structured.trace(model.apply, variables, X)
    masks = jax.tree.map(lambda x: None, variables)
    for layer, own in variables["params"].items():
        if layer != "Dense_2" and "kernel" in own:
            shape = own["kernel"].shape
            masks["params"][layer]["kernel"] = jnp.broadcast_to(
                jnp.arange(shape[-1]) % 2 > 0, shape
            )
    return variables, graph, masks


def test_the_small_function_gives_what_the_masked_one_gives():
    variables, graph, masks = masked_kernels(Net())
    variables["params"]["Dense_1"]["bias"] = jnp.linspace(0.1, 1, 6)  # something gets through relu
    expected = Net().apply(jp.masks.apply(variables, masks), X)
    folded = structured.fold(graph, variables, masks, X)
    small = structured.shrink(graph, folded.params, folded.masks)
    assert folded.error < 1e-5
    np.testing.assert_allclose(small.apply(small.params, X), expected, rtol=1e-4, atol=1e-5)
    other = jax.random.normal(jax.random.key(5), (7, 6, 6, 2))
    expected = Net().apply(jp.masks.apply(variables, masks), other)
    np.testing.assert_allclose(small.apply(small.params, other), expected, rtol=1e-4, atol=1e-5)
    plain = structured.shrink(graph, variables, folded.masks)
    assert jax.tree.map(jnp.shape, plain.params) == jax.tree.map(jnp.shape, small.params)
    assert float(jnp.abs(plain.apply(plain.params, other) - expected).max()) > 1e-2, "it was needed"
    assert "batch_stats/BatchNorm_0/mean" in folded.leaves
    assert "params/Dense_2/bias" in folded.leaves
    assert small.params["params"]["Conv_0"]["kernel"].shape == (3, 3, 2, 3)


@pytest.mark.parametrize("rows", [False, True], ids=["", "rows of readers masked too"])
def test_at_borders_one_unit_stays_for_all(rows):
    variables, graph, masks = masked_kernels(Net("SAME"))
    variables["params"]["Conv_0"]["bias"] = jnp.abs(variables["params"]["Conv_0"]["bias"])
    if rows:  # some of what reads a dead unit is masked: what the others give still counts
        shape = variables["params"]["Conv_1"]["kernel"].shape
        some = (jnp.arange(6) > 1)[None, None, :, None]
        own = masks["params"]["Conv_1"]["kernel"]
        masks["params"]["Conv_1"]["kernel"] = own & jnp.broadcast_to(some, shape)
    folded = structured.fold(graph, variables, masks, X)
    small = structured.shrink(graph, folded.params, folded.masks)
    assert folded.error < 1e-5
    other = jax.random.normal(jax.random.key(5), (7, 6, 6, 2))
    expected = Net("SAME").apply(jp.masks.apply(variables, masks), other)
    np.testing.assert_allclose(small.apply(small.params, other), expected, rtol=1e-4, atol=1e-5)
    assert small.params["params"]["Conv_0"]["kernel"].shape == (3, 3, 2, 4), "three and one"
    assert small.params["params"]["Conv_1"]["kernel"].shape == (3, 3, 4, 4)
    assert "params/Conv_1/kernel" in folded.leaves


def test_units_that_give_nothing_need_nobody():
    variables, graph, masks = masked_kernels(Net("SAME"))
    variables["params"]["Conv_0"]["bias"] = -jnp.abs(variables["params"]["Conv_0"]["bias"])
    folded = structured.fold(graph, variables, masks, X)
    assert folded.masks["params"]["Conv_0"]["bias"].sum() == 3


class Stream(nn.Module):
    """Units of a residual stream, which several padded convolutions read with other constants."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (1, 1))(x))
        for _ in range(2):
            h = nn.relu(nn.Conv(5, (3, 3))(x))
            x = nn.relu(x + nn.Conv(6, (1, 1))(h))
        return nn.Dense(3)(nn.relu(nn.Conv(4, (3, 3), 2)(x)).mean((1, 2)))


def test_one_unit_of_a_residual_stream_stays_for_all():
    variables = drawn(Stream().init(jax.random.key(1), X))
    graph = structured.trace(Stream().apply, variables, X)
    masks = jax.tree.map(lambda x: None, variables)
    for layer in ("Conv_0", "Conv_2", "Conv_4"):  # what brings the stream forth
        shape = variables["params"][layer]["kernel"].shape
        masks["params"][layer]["kernel"] = jnp.broadcast_to(jnp.arange(6) % 2 > 0, shape)
        variables["params"][layer]["bias"] = jnp.abs(variables["params"][layer]["bias"]) + 0.1
    folded = structured.fold(graph, variables, masks, X)
    small = structured.shrink(graph, folded.params, folded.masks)
    assert folded.error < 1e-5
    assert small.params["params"]["Conv_0"]["kernel"].shape == (1, 1, 2, 4)
    other = jax.random.normal(jax.random.key(5), (7, 6, 6, 2))
    expected = Stream().apply(jp.masks.apply(variables, masks), other)
    np.testing.assert_allclose(small.apply(small.params, other), expected, rtol=1e-4, atol=1e-5)


class Concatenated(nn.Module):
    """Units of two groups enter one padded convolution."""

    @nn.compact
    def __call__(self, x):
        a, b = nn.relu(nn.Conv(4, (1, 1))(x)), nn.relu(nn.Conv(6, (1, 1))(x))
        return nn.Dense(3)(nn.relu(nn.Conv(5, (3, 3))(jnp.concatenate([a, b], -1))).mean((1, 2)))


@pytest.mark.parametrize("array", [jnp.asarray, np.asarray])
def test_one_unit_of_each_group_that_a_convolution_reads_stays(array):
    variables = drawn(Concatenated().init(jax.random.key(1), X))
    graph = structured.trace(Concatenated().apply, variables, X)
    masks = jax.tree.map(lambda x: None, variables)
    for layer, width in (("Conv_0", 4), ("Conv_1", 6)):
        variables["params"][layer]["bias"] = jnp.linspace(0.5, 1, width)
        alive = np.broadcast_to(np.arange(width) % 2 > 0, (1, 1, 2, width))
        masks["params"][layer]["kernel"] = array(alive)
    masks["params"]["Conv_2"]["kernel"] = array(np.ones((3, 3, 10, 5), bool))
    folded = structured.fold(graph, variables, masks, X)
    small = structured.shrink(graph, folded.params, folded.masks)
    assert folded.error < 1e-5
    assert small.params["params"]["Conv_2"]["kernel"].shape == (3, 3, 3 + 4, 5)


def test_no_carrier_of_which_too_little_comes():
    def fn(p, x):  # what is large for one reader is small for the other
        h = x @ p["w"] + p["b"][None, None, None]
        conv = lambda h, w: jax.lax.conv_general_dilated(
            h, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (conv(jax.nn.gelu(h), p["u"]) + conv(jax.nn.gelu(-h), p["v"])).mean((1, 2))

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "w": jax.random.normal(keys[0], (2, 4)),
        "b": jnp.array([4.0, -4.0, 4.0, -4.0]),
        "u": jax.random.normal(keys[1], (3, 3, 4, 3)),
        "v": jax.random.normal(keys[2], (3, 3, 4, 3)),
    }
    masks = {**dict.fromkeys(params), "w": jnp.broadcast_to(jnp.arange(4)[None] > 1, (2, 4))}
    folded = structured.fold(structured.trace(fn, params, X), params, masks, X)
    assert folded.error > 1e-4, "told, instead of large weights"
    assert all(float(jnp.abs(w).max()) < 10 for w in jax.tree.leaves(folded.params))


class Pooled(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        x = nn.avg_pool(x, (3, 3), padding="SAME")  # no constant at its border
        return nn.Dense(3)(nn.tanh(nn.Conv(4, (3, 3), padding="VALID")(x)).mean((1, 2)))


def test_borders_of_which_nobody_can_take_care_are_told():
    variables = drawn(Pooled().init(jax.random.key(1), X))
    graph = structured.trace(Pooled().apply, variables, X)
    masks = jax.tree.map(lambda x: None, variables)
    masks["params"]["Conv_0"]["kernel"] = jnp.broadcast_to(jnp.arange(6) % 2 > 0, (3, 3, 2, 6))
    variables["params"]["Conv_0"]["bias"] = jnp.ones(6)
    folded = structured.fold(graph, variables, masks, X)
    assert folded.error > 1e-4, folded.leaves


def test_nothing_changes_where_biases_are_masked_too():
    variables, graph, _ = masked_kernels(Net())
    masks = structured.prune(graph, variables, sparsity=0.5)
    folded = structured.fold(graph, variables, masks, X)
    assert folded.leaves == ()
    assert folded.error == pytest.approx(0, abs=1e-6)
    same = jax.tree.map(jnp.array_equal, folded.masks, masks)
    assert jax.tree.all(same)


def test_units_that_gates_closed_leave_their_biases():
    apply = lambda p, x: jp.nn.lenet_300_100(num_classes=10).apply({"params": p}, x)
    x = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1))
    params = drawn(jp.nn.lenet_300_100(num_classes=10).init(jax.random.key(0), x)["params"])
    masks = {name: {"bias": None, "kernel": None} for name in params}
    masks["fc1"]["kernel"] = jnp.broadcast_to(jnp.arange(300) % 3 > 0, (784, 300))
    graph = structured.trace(apply, params, x)
    folded = structured.fold(graph, params, masks, x)
    small = structured.shrink(graph, folded.params, folded.masks)
    assert small.params["fc2"]["kernel"].shape == (200, 100)
    expected = apply(jp.masks.apply(params, masks), x)
    np.testing.assert_allclose(small.apply(small.params, x), expected, rtol=1e-4, atol=1e-4)


def test_channels_need_not_come_last():
    def fn(p, x):  # as many channels as rows and columns
        y = jax.lax.conv_general_dilated(
            x, p["w"], (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        y = jax.nn.relu(y + jnp.broadcast_to(p["b"][None, :, None, None], y.shape))
        return jnp.einsum("bchw,cd->bd", y, p["o"]) + p["c"][None]

    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "w": jax.random.normal(keys[0], (4, 2, 3, 3)),
        "b": jnp.abs(jax.random.normal(keys[1], (4,))) + 0.5,
        "o": jax.random.normal(keys[2], (4, 3)),
        "c": jax.random.normal(keys[3], (3,)),
    }
    x = jax.random.normal(keys[4], (2, 2, 6, 6))
    graph = structured.trace(fn, params, x)
    none = dict.fromkeys(params)
    folded = structured.fold(graph, params, none, x)
    assert folded.leaves == ()
    assert jax.tree.all(jax.tree.map(jnp.array_equal, folded.params, params))
    masks = none | {"w": jnp.broadcast_to(jnp.arange(4)[:, None, None, None] > 0, (4, 2, 3, 3))}
    folded = structured.fold(graph, params, masks, x)
    assert folded.leaves == ("c",)
    assert folded.error < 1e-5
    small = structured.shrink(graph, folded.params, folded.masks)
    expected = fn(jp.masks.apply(params, masks), x)
    np.testing.assert_allclose(small.apply(small.params, x), expected, rtol=1e-4, atol=1e-4)


def test_one_example_is_not_enough():
    variables, graph, masks = masked_kernels(Net())
    with pytest.raises(ValueError, match="two examples at least"):
        structured.fold(graph, variables, masks, X[:1])
