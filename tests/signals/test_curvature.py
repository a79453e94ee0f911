import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

RNG = np.random.default_rng(1)
A = RNG.normal(size=(6, 6)).astype(np.float32)
H = (A + A.T).astype(np.float32)  # indefinite: no Gauss-Newton matrix
SCALES = np.array([1.0, 2.0, 6.0], np.float32)  # one per example, mean 3
PARAMS = {"a": jnp.zeros((2, 2)), "b": jnp.ones(2), "n": jnp.arange(2)}
BATCHES = [jnp.asarray(SCALES[:2]), jnp.asarray(SCALES[2:])]


def quadratic(params, scales):
    """Has the Hessian `H` times the mean of the scales."""
    w = jnp.concatenate([params["a"].ravel(), params["b"]])
    return jnp.mean(scales) * 0.5 * w @ jnp.asarray(H) @ w


def flat(tree):
    assert tree["n"].tolist() == [0.0, 0.0]
    return np.concatenate([tree["a"].ravel(), tree["b"]])


def as_tree(v):
    return {"a": jnp.asarray(v[:4]).reshape(2, 2), "b": jnp.asarray(v[4:]), "n": None}


def test_a_product_with_the_hessian():
    v = RNG.normal(size=6).astype(np.float32)
    found = jp.signals.hessian_vector(quadratic, PARAMS, BATCHES, as_tree(v))
    np.testing.assert_allclose(flat(found), 3 * H @ v, rtol=1e-5, atol=1e-5)


def test_a_product_for_a_logistic_regression():
    x, y = RNG.normal(size=(9, 4)).astype(np.float32), np.ones(9, np.float32)
    w, v = RNG.normal(size=(2, 4)).astype(np.float32)
    loss = lambda params, b: jnp.mean(jnp.logaddexp(0, b[0] @ params) - b[1] * (b[0] @ params))
    p = 1 / (1 + np.exp(-x @ w))
    hessian = (x * (p * (1 - p))[:, None]).T @ x / 9
    found = jp.signals.hessian_vector(loss, w, [(x[:2], y[:2]), (x[2:], y[2:])], v)
    np.testing.assert_allclose(found, hessian @ v, rtol=1e-4, atol=1e-6)


def test_vectors_that_do_not_fit_are_refused():
    vector = as_tree(np.ones(6, np.float32))
    with pytest.raises(ValueError, match=r"shape \(3,\) at 'b', the parameter \(2,\)"):
        jp.signals.hessian_vector(quadratic, PARAMS, BATCHES, vector | {"b": jnp.ones(3)})
    with pytest.raises(ValueError, match="no tree like the parameters"):
        jp.signals.hessian_vector(quadratic, PARAMS, BATCHES, {"a": vector["a"]})


def test_hutchinson_has_the_expectation_and_the_variance_that_it_promises():
    n = 2000
    draw = lambda key: jp.signals.hessian_diagonal(quadratic, PARAMS, BATCHES[:1], key)
    draws = jax.vmap(draw)(jax.random.split(jax.random.key(0), n))
    draws = np.concatenate([draws["a"].reshape(n, 4), draws["b"]], axis=1)
    hessian = 1.5 * H
    variance = (hessian**2).sum(1) - np.diag(hessian) ** 2
    assert (np.abs(draws.mean(0) - np.diag(hessian)) < 4 * np.sqrt(variance / n)).all()
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.15)


def test_samples_are_averaged_and_each_batch_draws_anew():
    batch, key = jnp.asarray(SCALES), jax.random.key(3)
    diagonal = lambda n, **options: flat(
        jp.signals.hessian_diagonal(quadratic, PARAMS, [batch] * n, key, **options)
    )
    error = lambda found: np.abs(found - 3 * np.diag(H)).max()
    one = diagonal(1)
    assert error(diagonal(1, samples=4000)) < 0.5 < error(one)
    assert not np.allclose(diagonal(2), one), "two batches share their draws"


def test_a_diagonal_hessian_is_found_exactly_with_its_signs():
    loss = lambda params, x: jnp.mean(x) * jnp.sum(jnp.array([1.0, -2.0, 0.5]) * params["w"] ** 2)
    half = {"w": jnp.ones(3, jnp.bfloat16)}
    for params in ({"w": jnp.ones(3)}, half):
        found = jp.signals.hessian_diagonal(loss, params, [jnp.ones(2)], jax.random.key(0))["w"]
        assert found.dtype == jnp.float32
        assert found.tolist() == [2.0, -4.0, 1.0]
    with pytest.raises(ValueError, match="samples=0"):
        jp.signals.hessian_diagonal(loss, half, [jnp.ones(2)], jax.random.key(0), samples=0)


X = RNG.normal(size=(10, 7)).astype(np.float32)
linear = lambda params, x: jnp.mean(x @ params["k"].ravel() + params["bias"])  # gradients: x, 1


def explicit(g, block, damp):
    """The inverses of the blocks of the damped Fisher, in float64."""
    g = np.pad(g.astype(np.float64), ((0, 0), (0, -g.shape[1] % block)))
    whole = g.T @ g / len(g) + damp * np.eye(g.shape[1])
    parts = range(0, g.shape[1], block)
    return np.stack([np.linalg.inv(whole[i : i + block, i : i + block]) for i in parts])


@pytest.mark.parametrize(
    ("block", "chunk", "examples", "damp"), [(3, 4, 1, 1e-2), (50, 3, 2, 1e-5)]
)
def test_blocks_of_the_inverse_fisher(block, chunk, examples, damp):
    params = {"k": jnp.ones((7, 1)), "bias": jnp.ones(1)}
    found = jp.signals.inverse_fisher(
        linear, params, [X[:6], X[6:]], block=block, chunk=chunk, examples=examples, damp=damp
    )
    assert found["bias"] is None
    means = X.reshape(-1, examples, 7).mean(1)
    expected = explicit(means, block, damp)
    assert found["k"].shape == expected.shape
    np.testing.assert_allclose(found["k"], expected, rtol=2e-3, atol=1e-5 * expected.max())


def test_rounding_does_not_drown_the_damping():
    """Far more accurate than the inverse of the sum, whose smallest eigenvalues float32 cannot hold."""
    g = RNG.normal(size=(24, 30)) * np.logspace(0, -3, 30) + 3 * RNG.normal(size=(24, 1))
    g = g.astype(np.float32)
    loss = lambda params, x: jnp.mean(x @ params["k"])
    found = jp.signals.inverse_fisher(loss, {"k": jnp.ones((30, 1))}, [g], block=30, damp=1e-5)
    exact = explicit(g, 30, 1e-5)
    assert np.linalg.cond(exact[0]) > 1e7
    wrong = lambda inverse: np.abs(np.diag(inverse) / np.diag(exact[0]) - 1).max()
    direct = np.linalg.inv(
        g.T @ g / np.float32(24) + np.eye(30, dtype=np.float32) / np.float32(1e5)
    )
    assert wrong(found["k"][0]) < min(0.02, wrong(direct) / 10)


def test_inverse_fisher_of_a_list_in_bfloat16_feeds_woodfisher():
    params = [jnp.ones((7, 1), jnp.bfloat16), jnp.ones(1)]
    loss = lambda params, x: linear({"k": params[0].astype(jnp.float32), "bias": params[1]}, x)
    found = jp.signals.inverse_fisher(loss, params, [X], block=4, damp=1e-2)
    assert found[1] is None
    assert found[0].dtype == jnp.float32
    scores = jp.criteria.woodfisher(params, inverse_fisher=found)
    assert scores[1] is None
    rounded = np.asarray(jnp.asarray(X, jnp.bfloat16).astype(jnp.float32))
    price = 1 / np.diagonal(explicit(rounded, 4, 1e-2), axis1=1, axis2=2).ravel()[:7]
    np.testing.assert_allclose(scores[0].ravel(), price / 2, rtol=1e-3)


def test_weights_that_are_zero_make_up_for_nothing():
    """The inverse of the living block, 1 / damp at what was removed."""
    k = jnp.ones((7, 1)).at[jnp.array([1, 4])].set(0)
    params = {"k": k, "bias": jnp.ones(1)}
    found = jp.signals.inverse_fisher(linear, params, [X], block=7, damp=1e-2)["k"]
    expected = explicit(X * np.asarray(k).ravel(), 7, 1e-2)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5 * expected.max())
    np.testing.assert_allclose(found[0, 1], 100 * np.eye(7)[1], rtol=1e-6)


def test_inverse_fisher_refuses_in_words():
    params = {"k": jnp.ones((7, 1)), "bias": jnp.ones(1)}
    inverse_fisher = jp.signals.inverse_fisher
    with pytest.raises(ValueError, match=r"counts batches .* generator can be read only once"):
        inverse_fisher(linear, params, (x for x in [X]))
    with pytest.raises(ValueError, match="must be above 0"):
        inverse_fisher(linear, params, [X], damp=0.0)
    with pytest.raises(ValueError, match="nothing to prune"):
        inverse_fisher(linear, {"bias": jnp.ones(1)}, [X])
    with pytest.raises(ValueError, match="not a multiple of examples=4"):
        inverse_fisher(linear, params, [X], examples=4)


def test_progress_and_one_compilation():
    traces, seen = [], []

    def loss(params, x):
        traces.append(0)
        return linear(params, x)

    params = {"k": jnp.ones((7, 1)), "bias": jnp.ones(1)}
    jp.signals.inverse_fisher(loss, params, [X[:5]] * 3, chunk=5, progress=seen.append)
    assert seen == [1, 2, 3]
    assert len(traces) == 1
