import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxprune as jp
from jaxprune import gates

GATE = gates.variational_dropout()
COUNT, FEW = 30_000, 10_000
ROW = jnp.array([[1.0, -2.0, 0.5]])


def theta_of(w, log_variance=-1.0):
    return gates.Gated({"w": w}, {"w": jnp.full(w.shape, log_variance)})


WEIGHTS = jnp.array([[1.0, 2.0], [-1.0, 3.0], [0.75, -2.0]])


def check_normal(samples, mean, variance):
    """Mean and variance of draws along the first axis, within three (of means) standard errors."""
    count, samples = samples.shape[0], np.asarray(samples, np.float64)
    assert (np.abs(samples.mean(0) - mean) < 3.5 * np.sqrt(variance / count)).all()
    assert (np.abs(samples.var(0) / variance - 1) < 3.5 * math.sqrt(2 / count)).all()


def test_outputs_are_distributed_as_with_drawn_weights_but_each_on_its_own():
    theta, x = theta_of(WEIGHTS), jnp.broadcast_to(ROW, (COUNT, 3))
    fn = lambda params, x: x @ params["w"]
    y = gates.apply(GATE, fn, theta, x, key=jax.random.key(0))
    mean, variance = np.asarray(ROW @ WEIGHTS), math.exp(-1) * 5.25
    check_normal(y, mean, np.full(2, variance))
    noise = np.asarray(y) - mean
    for pair in (noise[1:, 0] * noise[:-1, 0], noise[:, 0] * noise[:, 1]):
        assert abs(pair.mean()) < 3.5 * variance / math.sqrt(COUNT), "independent"
    drawn = jax.vmap(lambda key: fn(GATE.sample(theta, key), ROW)[0])
    check_normal(drawn(jax.random.split(jax.random.key(1), FEW)), mean[0], np.full(2, variance))


def test_gradients_are_the_same_in_expectation():
    theta, x = theta_of(WEIGHTS), jnp.broadcast_to(ROW, (COUNT, 3))

    def exact(theta):
        """E (y - 1)^2 of the normal outputs."""
        w, variance = theta.params["w"], jnp.exp(theta.gates["w"])
        return ((ROW @ w - 1) ** 2 + ROW**2 @ variance).sum()

    def drawn(theta):
        y = gates.apply(GATE, lambda p, x: x @ p["w"], theta, x, key=jax.random.key(0))
        return ((y - 1) ** 2).mean(0).sum()

    expected, found = jax.grad(exact)(theta), jax.grad(drawn)(theta)
    assert jnp.allclose(found.params["w"], expected.params["w"], atol=0.1)
    assert jnp.allclose(found.gates["w"], expected.gates["w"], rtol=0.1)

    def weights_drawn(theta, key):
        return ((ROW @ GATE.sample(theta, key)["w"] - 1) ** 2).sum()

    keys = jax.random.split(jax.random.key(1), FEW)
    slopes = jax.vmap(jax.grad(weights_drawn), (None, 0))(theta, keys)
    for drawn_, mean in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected), strict=True):
        error = jnp.abs(drawn_.mean(0) - mean)
        assert (error < 4 * drawn_.std(0) / math.sqrt(FEW)).all()


def nested(params, x):
    """Calls within calls, a reshape and a transpose, a rematerialised product."""
    inner = jax.jit(lambda w, x: jax.jit(jnp.matmul)(x, w.reshape(2, 3).T))
    return jax.checkpoint(lambda w, x: inner(w, x))(params["w"].T.reshape(6), x)


def test_products_are_found_in_calls_and_behind_relayouts():
    theta = theta_of(WEIGHTS)
    theta.gates["w"] = jnp.array([[-1.0, 0.0], [0.5, -2.0], [-1.0, -3.0]])
    x = jnp.broadcast_to(ROW, (COUNT, 3))
    y = jax.jit(functools.partial(gates.apply, GATE, nested))(theta, x, key=jax.random.key(0))
    check_normal(y, np.asarray(ROW @ WEIGHTS), np.asarray(ROW**2 @ jnp.exp(theta.gates["w"]))[0])


def test_convolutions():
    w = jnp.array([1.0, -2.0, 0.5, 3.0]).reshape(2, 2, 1, 1)
    theta, x = theta_of(w), jnp.broadcast_to(jnp.array([[1.0, 2.0], [3.0, 4.0]]), (COUNT, 2, 2))

    def fn(params, x):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x[..., None], params["w"], (1, 1), "VALID", dimension_numbers=dims
        )

    y = gates.apply(GATE, fn, theta, x, key=jax.random.key(0))
    check_normal(y.reshape(COUNT, 1), 1 - 4 + 1.5 + 12, np.full(1, math.exp(-1) * 30))


def test_a_weight_that_meets_anything_else_is_drawn_once():
    """Or w - w were not zero, and a normalised weight not of length one."""
    theta = theta_of(WEIGHTS)

    @jax.custom_jvp
    def twice(w):
        return w * 2

    twice.defjvps(lambda t, _, w: t * 2)

    def fn(params, x):
        w = params["w"]
        unit = w / jnp.linalg.norm(w)
        looped = jax.lax.scan(lambda carry, row: (carry + row, None), jnp.zeros(2), w)[0]
        return {
            "weight": w,
            "again": w.T.reshape(2, 3).T,
            "difference": w.T - jax.jit(jnp.transpose)(w),
            "length": jnp.linalg.norm(unit),
            "row": jnp.take(w, 1, axis=0),
            "sum": looped,
            "twice": twice(w),
            "inside": jax.jit(lambda w: w)(w),
        }

    found = gates.apply(GATE, fn, theta, ROW, key=jax.random.key(0))
    w = found["weight"]
    assert jnp.abs(w - WEIGHTS).min() > 1e-3, "noise"
    assert jnp.array_equal(found["again"], w)
    assert jnp.array_equal(found["inside"], w)
    assert (found["difference"] == 0).all()
    assert float(found["length"]) == pytest.approx(1, rel=1e-5)
    assert jnp.array_equal(found["row"], w[1])
    assert jnp.allclose(found["sum"], w.sum(0), atol=1e-5)
    assert jnp.array_equal(found["twice"], 2 * w)
    check_normal(
        jax.vmap(lambda key: gates.apply(GATE, lambda p: p["w"].ravel(), theta, key=key))(
            jax.random.split(jax.random.key(1), FEW)
        ),
        np.asarray(WEIGHTS).ravel(),
        np.full(6, math.exp(-1)),
    )


def test_products_that_share_a_weight_have_noise_of_their_own():
    fn = lambda params, x: (x @ params["w"], x @ params["w"], x @ (params["w"] * 1.0))
    a, b, c = gates.apply(GATE, fn, theta_of(WEIGHTS), ROW, key=jax.random.key(0))
    assert not ((a == b) | (b == c) | (a == c)).any()


def test_layers_in_a_scan():
    layers = jnp.stack([jnp.eye(3)] * 4)
    theta = gates.Gated({"w": layers}, {"w": jnp.full(layers.shape, -3.0)})

    def fn(params, x):
        return jax.lax.scan(lambda x, w: (x @ w, x.sum()), x, params["w"])

    x, sums = gates.apply(GATE, fn, theta, ROW, key=jax.random.key(0))
    drawn = gates.apply(GATE, lambda params: params["w"], theta, key=jax.random.key(0))
    assert jnp.allclose(x, ROW @ functools.reduce(jnp.matmul, drawn), rtol=1e-5)
    assert sums.shape == (4,)


def test_outputs_of_every_kind():
    theta = gates.Gated(
        {"w": WEIGHTS, "unused": WEIGHTS, "n": jnp.int32(3), "b": jnp.zeros(2)},
        {"w": jnp.zeros((3, 2)), "unused": jnp.zeros((3, 2))},
    )

    def fn(params, x, options):
        return {
            "y": (x @ params["w"], None),
            "top": jnp.argmax(x @ params["w"], -1),
            "n": params["n"] + 1,
            "b": params["b"],
            "constant": 7,
            "option": options["scale"] * 2,
            "key": jax.random.key_data(options["key"]),
        }

    options = {"scale": 1.5, "key": jax.random.key(5), "none": None}
    found = gates.apply(GATE, fn, theta, ROW, options, key=jax.random.key(0))
    like = jax.eval_shape(fn, theta.params, ROW, options)
    assert jax.tree.structure(found) == jax.tree.structure(like)
    dtypes = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
    assert dtypes(found) == dtypes(like)
    assert (int(found["n"]), int(found["constant"]), float(found["option"])) == (4, 7, 3.0)


@pytest.mark.parametrize("cast", ["parameters", "computation"])
def test_bfloat16(cast):
    w, x = WEIGHTS, jnp.broadcast_to(ROW, (COUNT, 3)).astype(jnp.bfloat16)
    theta = theta_of(w.astype(jnp.bfloat16) if cast == "parameters" else w)
    fn = lambda params, x: x @ params["w"].astype(jnp.bfloat16)
    y = gates.apply(GATE, fn, theta, x, key=jax.random.key(0))
    assert y.dtype == jnp.bfloat16
    y = np.asarray(y, np.float32)
    assert y.mean(0) == pytest.approx(np.asarray(ROW @ WEIGHTS)[0], abs=0.05)
    assert y.var(0) == pytest.approx(math.exp(-1) * 5.25, rel=0.05)


@pytest.mark.parametrize("size", [1.0, 300.0])  # squares below and above what float16 holds
def test_float16(size):
    theta = theta_of(jnp.full((3, 1), 0.01, jnp.float16), -17.0)
    fn = lambda params, x: x @ params["w"]
    x = jnp.full((COUNT, 3), size, jnp.float16)
    y = np.asarray(gates.apply(GATE, fn, theta, x, key=jax.random.key(0)), np.float32)
    assert y.mean() == pytest.approx(0.03 * size, rel=1e-3)
    assert y.std() == pytest.approx(size * math.sqrt(3 * math.exp(-17)), rel=0.05)


def test_where_there_is_no_variance_there_is_no_noise():
    theta, x = theta_of(WEIGHTS), jnp.zeros((4, 3)).at[0].set(1e-6)
    fn = lambda theta, x: gates.apply(
        GATE, lambda p, x: x @ p["w"], theta, x, key=jax.random.key(0)
    )
    y = fn(theta, x)
    assert (y[1:] == 0).all()
    assert jnp.abs(y[0]).max() < 1e-5, "noise is as large as what is multiplied with it"
    slopes = jax.grad(lambda theta, x: fn(theta, x).sum(), argnums=(0, 1))(theta, x)
    assert jax.tree.all(jax.tree.map(lambda g: jnp.isfinite(g).all(), slopes))


def test_noise_by_key():
    fn = lambda params, x: jax.nn.relu(x @ params["w"]) @ params["w"].T
    draw = jax.jit(
        lambda seed: gates.apply(GATE, fn, theta_of(WEIGHTS), ROW, key=jax.random.key(seed))
    )
    assert jnp.array_equal(draw(0), draw(0))
    assert not (draw(0) == draw(1)).any()
    first, second = gates.apply(
        GATE, lambda p, x: (x @ p["w"], x @ p["v"]),
        gates.Gated({"w": WEIGHTS, "v": WEIGHTS}, {"w": jnp.zeros((3, 2)), "v": jnp.zeros((3, 2))}),
        ROW, key=jax.random.key(0),
    )  # fmt: skip
    assert not (first == second).any(), "each product has noise of its own"


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(8, (3, 3))(x))
        x = linen.BatchNorm(use_running_average=False)(x)
        return linen.Dense(4)(x.reshape(x.shape[0], -1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.fc = nnx.Linear(128, 4, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.conv(x)).reshape(x.shape[0], -1))


def check_model(fn, params):
    """Without noise a network is itself; with noise examples that are the same differ."""
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, 4, 4, 1)), (3, 4, 4, 1))
    for init, differs in ((-30.0, False), (-3.0, True)):
        gate = gates.variational_dropout(init=init, clip_in_training=False, bound=40.0)
        theta = gate.init(params, jax.random.key(1))
        y, *_ = jax.jit(functools.partial(gates.apply, gate, fn))(theta, x, key=jax.random.key(2))
        expected, *_ = fn(params, x)
        assert jnp.allclose(y, expected, atol=1e-3) != differs
        assert not differs or not (y[0] == y[1]).any()


def test_linen():
    model = Linen()
    variables = model.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
    rest = {"batch_stats": variables["batch_stats"]}
    fn = lambda params, x: model.apply({"params": params, **rest}, x, mutable=["batch_stats"])
    check_model(fn, variables["params"])


def test_nnx():
    graph, params = nnx.split(Nnx(nnx.Rngs(0)), nnx.Param)
    check_model(lambda params, x: (nnx.merge(graph, params)(x), None), params)


def test_other_gates_draw_weights():
    gate = gates.hard_concrete(pattern=jp.patterns.unstructured())
    theta = gate.init({"w": jnp.ones((3, 2))}, jax.random.key(0))
    y = gates.apply(gate, lambda p, x: x @ p["w"], theta, ROW, key=jax.random.key(1))
    assert jnp.array_equal(y, ROW @ gate.sample(theta, jax.random.key(1))["w"])
