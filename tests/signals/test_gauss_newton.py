"""Gauss-Newton's diagonal: by hand, against the explicit matrix, never negative."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

RNG = np.random.default_rng(3)
KEY = jax.random.key(0)
diagonal = jp.signals.gauss_newton_diagonal


def cross_entropy(logits, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def test_two_classes_by_hand():
    """Logits (w x, 0) at w = 0: both have probability 1/2, so that the entry is x^2 / 4, here 9 / 4."""
    apply = lambda params, batch: batch[0] * jnp.stack([params["w"], 0.0])[None]
    batch = (jnp.array([[3.0]]), jnp.array([0]))
    found = diagonal(apply, cross_entropy, {"w": jnp.array(0.0)}, [batch], KEY)
    np.testing.assert_allclose(found["w"], 2.25, rtol=1e-5)


def network(params, batch):
    return jnp.tanh(batch[0] @ params["in"]) @ params["out"]


PARAMS = {
    "in": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
    "out": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32),
}
X = RNG.normal(size=(5, 3)).astype(np.float32)
Y = RNG.integers(3, size=5)
BATCHES = [(X[:3], Y[:3]), (X[3:], Y[3:])]


def explicit(params):
    """The mean over examples of diag(J^T (diag p - p p^T) J)."""
    total = jax.tree.map(jnp.zeros_like, params)
    for x, y in zip(X, Y, strict=True):
        one = lambda params, x=x, y=y: network(params, (x[None], y[None]))[0]
        p = np.asarray(jax.nn.softmax(one(params)))
        hessian = np.diag(p) - np.outer(p, p)
        jacobian = jax.jacobian(one)(params)
        entry = lambda j, h=hessian: jnp.einsum("cij,cd,dij->ij", j, h, j) / len(X)
        total = jax.tree.map(lambda t, j, entry=entry: t + entry(j), total, jacobian)
    return total


def test_the_explicit_matrix_is_its_expectation():
    found = diagonal(network, cross_entropy, PARAMS, BATCHES, KEY, samples=20_000)
    for name, expected in explicit(PARAMS).items():
        np.testing.assert_allclose(found[name], expected, rtol=0.1, atol=1e-4)


def test_no_draw_is_negative_and_each_batch_draws_anew():
    draw = lambda n: diagonal(network, cross_entropy, PARAMS, BATCHES[:1] * n, KEY, samples=1)
    once, twice = draw(1), draw(2)
    assert all((x >= 0).all() for x in jax.tree.leaves(once))
    assert not np.allclose(once["in"], twice["in"], rtol=1e-3)


def test_outputs_of_any_shape_and_leaves_that_are_no_numbers():
    maps = lambda params, x: jnp.einsum("nhw,c->nhwc", x, params["w"].astype(jnp.float32))
    halved = lambda outputs, x: 0.5 * jnp.sum(outputs**2) / len(x)
    x = jnp.asarray(RNG.normal(size=(6, 2, 2)), jnp.float32)
    params = {"w": jnp.ones(3, jnp.bfloat16), "n": jnp.arange(2)}
    found = diagonal(maps, halved, params, [x], KEY, samples=4_000)
    assert found["n"].tolist() == [0, 0]
    assert found["w"].dtype == jnp.float32
    np.testing.assert_allclose(found["w"], float((x**2).sum() / 6), rtol=0.1)


def test_a_loss_that_is_concave_in_an_output_counts_what_is_convex():
    apply = lambda params, x: x * params["w"][None]
    saddle = lambda outputs, x: jnp.mean(outputs[:, 0] ** 2 - outputs[:, 1] ** 2)
    found = diagonal(apply, saddle, {"w": jnp.ones(2)}, [jnp.ones((1, 1))], KEY)["w"]
    np.testing.assert_allclose(found, [2, 0], atol=1e-5)


def test_what_is_refused():
    params = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="samples=0"):
        diagonal(network, cross_entropy, PARAMS, BATCHES, KEY, samples=0)
    wide = lambda params, x: jnp.ones((2, 3000)) * params["w"].sum()
    with pytest.raises(ValueError, match=r"up to 2,048 numbers for each example .*signals.fisher"):
        diagonal(wide, lambda outputs, x: outputs.mean(), params, [jnp.ones(2)], KEY)
    pair = lambda params, x: (params["w"], params["w"])
    with pytest.raises(ValueError, match="one floating array"):
        diagonal(pair, lambda outputs, x: outputs[0].mean(), params, [jnp.ones(2)], KEY)
    with pytest.raises(ValueError, match="give apply= too"):
        jp.signals.gatherers(BATCHES, output_loss=cross_entropy)
