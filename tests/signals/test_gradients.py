import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype(np.float32)
Y = (RNG.random(12) > 0.5).astype(np.float32)
W = RNG.normal(size=(4, 1)).astype(np.float32)


def logistic(params, batch):
    """Mean cross-entropy of a logistic regression; its gradients are (p - y) x."""
    x, y = batch
    z = (x @ params["w"].astype(x.dtype))[:, 0]
    return jnp.mean(jnp.logaddexp(0, z) - y * z)


PARAMS = {"n": jnp.arange(3), "w": jnp.asarray(W)}
EACH = ((1 / (1 + np.exp(-X @ W))) - Y[:, None]) * X  # gradients of single examples
BATCHES = [(X[:8], Y[:8]), (X[8:], Y[8:])]


def close(found, expected, **options):
    np.testing.assert_allclose(
        found["w"].ravel(), expected, **{"rtol": 1e-5, "atol": 1e-7} | options
    )
    assert found["n"].tolist() == [0.0, 0.0, 0.0], "no signal at integers"
    assert found["w"].dtype == jnp.float32


def test_gradients_of_a_logistic_regression():
    for batches in (BATCHES, [(X, Y)], zip(np.split(X, 4), np.split(Y, 4), strict=True)):
        close(jp.signals.grads(logistic, PARAMS, batches), EACH.mean(0))


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_fisher_is_the_mean_of_the_squares_of_single_examples(chunk):
    close(jp.signals.fisher(logistic, PARAMS, BATCHES, chunk=chunk), (EACH**2).mean(0))


def test_fisher_of_a_network_against_a_loop():
    def loss(params, batch):
        x, y = batch
        hidden = jnp.tanh(x @ params[0] + params[1][None])
        return jnp.mean((hidden @ params[2] - y[:, None]) ** 2)

    params = [jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((4, 5), (5,), (5, 1))]
    grad = jax.jit(jax.grad(loss))
    each = [grad(params, (X[i : i + 1], Y[i : i + 1])) for i in range(12)]
    expected = jax.tree.map(lambda *g: np.mean(np.square(g), axis=0), *each)
    found = jp.signals.fisher(loss, params, BATCHES, chunk=5)
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-5), found, expected)


def test_groups_of_examples():
    means = EACH.reshape(3, 4, 4).mean(1)
    close(jp.signals.fisher(logistic, PARAMS, BATCHES, examples=4, chunk=2), (means**2).mean(0))


def test_batches_of_unequal_size_count_by_their_examples():
    parts = [(X[:3], Y[:3]), (X[3:10], Y[3:10]), (X[10:], Y[10:])]
    close(jp.signals.fisher(logistic, PARAMS, parts, chunk=2), (EACH**2).mean(0))


def test_bfloat16_parameters():
    half = {"n": PARAMS["n"], "w": PARAMS["w"].astype(jnp.bfloat16)}
    w = np.asarray(half["w"].astype(jnp.float32))
    each = ((1 / (1 + np.exp(-X @ w))) - Y[:, None]) * X
    close(jp.signals.grads(logistic, half, BATCHES), each.mean(0), rtol=1e-2, atol=1e-3)
    close(jp.signals.fisher(logistic, half, BATCHES), (each**2).mean(0), rtol=1e-2)
    # 600 examples of one gradient: sums of squares in bfloat16 would stop growing at 256 of them.
    loss = lambda params, x: jnp.mean(params["w"].sum() * x.astype(jnp.bfloat16))
    one = jp.signals.fisher(loss, {"w": half["w"]}, [jnp.ones(600)], chunk=2)
    assert one["w"].tolist() == [[1.0]] * 4


def test_an_nnx_state():
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.asarray(W))
            self.count = nnx.Variable(jnp.zeros((), jnp.int32))

    graph, state = nnx.split(Model())
    loss = lambda state, batch: logistic({"w": nnx.merge(graph, state).w[...]}, batch)
    found = jp.signals.fisher(loss, state, BATCHES)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    leaves = {leaf.shape: leaf for leaf in jax.tree.leaves(found)}
    np.testing.assert_allclose(leaves[(4, 1)].ravel(), (EACH**2).mean(0), rtol=1e-5)
    assert leaves[()] == 0


def test_what_cannot_be_cut_into_groups_is_refused():
    fisher = jp.signals.fisher
    with pytest.raises(ValueError, match=r"batch 1 has 4 examples, not a multiple of examples=8"):
        fisher(logistic, PARAMS, BATCHES, examples=8)
    with pytest.raises(ValueError, match=r"batch 0 have leading axes \[12, 8\]"):
        fisher(logistic, PARAMS, [(X, Y[:8])])
    with pytest.raises(ValueError, match=r"examples=0\): at least 1"):
        fisher(logistic, PARAMS, BATCHES, examples=0)
    with pytest.raises(ValueError, match=r"chunk=0\): at least 1"):
        fisher(logistic, PARAMS, BATCHES, chunk=0)


def test_a_loss_is_compiled_once():
    traces = []

    def loss(params, batch):
        traces.append(0)
        return logistic(params, batch)

    for scale in (1, 2):
        params = {"w": scale * PARAMS["w"]}
        jp.signals.grads(loss, params, [BATCHES[0]] * 3)
    assert len(traces) == 1


def test_prune_with_fisher():
    method = jp.Method(jp.criteria.fisher, schedule=jp.schedules.one_shot(sparsity=0.5))
    params = {"w": PARAMS["w"]}
    _, masks = jp.prune(params, method, fisher=jp.signals.fisher(logistic, params, BATCHES))
    scores = (EACH**2).mean(0) * W[:, 0] ** 2
    assert masks["w"].ravel().tolist() == (scores >= np.sort(scores)[2]).tolist()


@pytest.mark.parametrize("returned", [lambda mean: (mean, {"accuracy": mean}), lambda mean: None])
def test_a_loss_with_auxiliary_values_is_refused_in_words(returned):
    with pytest.raises(TypeError, match=r"it returned a (tuple|NoneType).*the batch alone"):
        jp.signals.grads(lambda params, batch: returned(logistic(params, batch)), PARAMS, BATCHES)


OPTIONS = {
    "examples": lambda batches, value: jp.signals.fisher(logistic, PARAMS, batches, examples=value),
    "chunk": lambda batches, value: jp.signals.fisher(logistic, PARAMS, batches, chunk=value),
    "block": lambda batches, value: jp.signals.inverse_fisher(
        logistic, PARAMS, batches, block=value
    ),
    "bins": lambda batches, value: jp.signals.outputs(jnp.matmul, W, batches, bins=value),
    "samples": lambda batches, value: jp.signals.hessian_diagonal(
        logistic, PARAMS, batches, jax.random.key(0), samples=value
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_numbers_that_are_not_whole_are_refused_before_data_are_read(name):
    read = []

    def batches():
        for batch in BATCHES:
            read.append(batch)
            yield batch

    with pytest.raises(TypeError, match=rf"{name}=2\.5\): an integer is needed"):
        OPTIONS[name](batches(), 2.5)
    assert not read


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="bins=0"):
        jp.signals.outputs(jnp.matmul, W, [X.T], bins=0)
    with pytest.raises(ValueError, match=r"damp=inf.*finite"):
        jp.signals.inverse_fisher(logistic, PARAMS, BATCHES, damp=float("inf"))
    with pytest.raises(TypeError, match="output_loss=None"):
        jp.signals.hessian_gradient(jnp.matmul, None, PARAMS, BATCHES)  # type: ignore[arg-type]
