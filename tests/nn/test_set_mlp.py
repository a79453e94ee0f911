"""The network of SET, and its activation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.nn import SReLU, set_mlp


def srelu(x, *, left_threshold, left_slope, width, right_slope):
    """Piece by piece, in double precision."""
    right_threshold = left_threshold + np.abs(width)
    left = left_threshold + left_slope * (x - left_threshold)
    right = right_threshold + right_slope * (x - right_threshold)
    return np.where(x <= left_threshold, left, np.where(x >= right_threshold, right, x))


def test_srelu_has_three_pieces():
    rng = np.random.default_rng(0)
    names = ("left_threshold", "left_slope", "width", "right_slope")
    params = {name: rng.standard_normal(6).astype(np.float32) for name in names}
    x = 3 * rng.standard_normal((50, 4, 6), np.float32)
    found = SReLU().apply({"params": params}, x)
    doubled = {name: value.astype(np.float64) for name, value in params.items()}
    np.testing.assert_allclose(found, srelu(x.astype(np.float64), **doubled), atol=1e-5)
    pieces = [x < params["left_threshold"], x > params["left_threshold"] + abs(params["width"])]
    assert all(0.1 < piece.mean() < 0.9 for piece in pieces), "all pieces are reached"


def test_srelu_begins_as_a_leaky_relu_of_each_unit():
    x = jnp.linspace(-3, 30, 34)[:, None] * jnp.ones((1, 1000))
    y, variables = SReLU().init_with_output(jax.random.key(0), x)
    params = variables["params"]
    np.testing.assert_allclose(y, jnp.where(x < 0, params["left_slope"][None] * x, x), atol=1e-5)
    assert 0 <= params["left_slope"].min() < 0.02 < 0.98 < params["left_slope"].max() < 1
    assert 0 <= params["width"].min() < 0.1 < 4.9 < params["width"].max() < 5


def test_every_parameter_of_srelu_learns():
    x = jax.random.normal(jax.random.key(0), (64, 8)) * 3
    model = SReLU()
    params = dict(model.init(jax.random.key(1), x)["params"])
    params["right_slope"] *= 0.5  # with a slope of 1 it does not matter where the threshold is
    grads = jax.grad(lambda params: jnp.sum(model.apply({"params": params}, x) ** 2))(params)
    for name, grad in grads.items():
        assert (grad != 0).mean() > 0.5, name


def test_dropout_drops_its_share_in_training_alone():
    model = set_mlp(hidden=(2000,), dropout_rate=0.3)
    x = jnp.ones((2, 5))
    variables = model.init(jax.random.key(0), x)
    seen = {}
    for train in (False, True):
        _, state = model.apply(
            variables,
            x,
            train=train,
            rngs={"dropout": jax.random.key(1)},
            capture_intermediates=True,
        )
        (seen[train],) = state["intermediates"]["Dropout_0"]["__call__"]
    assert (seen[False] == 0).mean() < 0.01
    assert float((seen[True] == 0).mean()) == pytest.approx(0.3, abs=0.03)


def test_units_are_pruned_with_the_parameters_of_their_activation():
    model = set_mlp(hidden=(12, 8))
    x = jax.random.normal(jax.random.key(0), (3, 6))
    variables = model.init(jax.random.key(1), x)
    graph = jp.structured.trace(model.apply, variables, x)
    masks = jp.structured.prune(graph, variables, sparsity=0.5)
    small = jp.structured.shrink(graph, variables, masks)
    layers = small.params["params"]
    kept = layers["fc1"]["kernel"].shape[1]
    assert kept < 12
    assert {leaf.shape for leaf in layers["srelu1"].values()} == {(kept,)}


def test_integers_are_computed_in_the_type_of_the_parameters():
    x = jnp.arange(-3, 3)[:, None] * jnp.ones((1, 4), int)
    y, _ = SReLU().init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y[3:], x[3:])
    assert (y[:3] != jnp.round(y[:3])).any()


def test_effective_weights_are_found_behind_srelu():
    model = set_mlp(hidden=(6,))
    x = jnp.ones((1, 3))
    params = model.init(jax.random.key(0), x)["params"]
    masks = jax.tree.map(lambda leaf: jnp.ones_like(leaf, bool) if leaf.ndim == 2 else None, params)
    masks["fc2"]["kernel"] = masks["fc2"]["kernel"].at[2].set(False)  # the third unit goes nowhere
    effective = jp.metrics.effective(lambda p, x: model.apply({"params": p}, x), params, masks, x)
    assert not effective["fc1"]["kernel"][:, 2].any()
    assert int(effective["fc1"]["kernel"].sum()) == 3 * 5
