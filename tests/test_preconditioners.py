"""Each factor against the updates of the optimizer itself: without momentum they are factor x gradient."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxprune import preconditioners

PARAMS = {"a": jnp.ones((2, 3)), "b": [jnp.ones(3), None]}


def gradients(seed):
    keys = iter(jax.random.split(jax.random.key(seed), 2))
    return jax.tree.map(
        lambda p: jax.random.normal(next(keys), p.shape) * 10.0 ** jnp.arange(-2.0, 1.0), PARAMS
    )


CASES = {
    "adam": (optax.scale_by_adam(b1=0.0), preconditioners.adam()),
    "adam, other numbers": (
        optax.scale_by_adam(b1=0.0, b2=0.9, eps=1e-2, eps_root=1e-3),
        preconditioners.adam(b2=0.9, eps=1e-2, eps_root=1e-3),
    ),
    "adam in a chain": (
        optax.chain(optax.identity(), optax.scale_by_adam(b1=0.0), optax.scale(1.0)),
        preconditioners.adam(),
    ),
    "adam with injected numbers": (
        optax.inject_hyperparams(optax.scale_by_adam)(b1=0.0, b2=0.9),
        preconditioners.adam(b2=0.9),
    ),
    "rms": (optax.scale_by_rms(eps=1e-2), preconditioners.rms(eps=1e-2)),
    "rms, outside the root": (
        optax.scale_by_rms(eps=1e-2, eps_in_sqrt=False),
        preconditioners.rms(eps=1e-2, eps_in_sqrt=False),
    ),
    "rms, corrected": (
        optax.scale_by_rms(decay=0.8, bias_correction=True),
        preconditioners.rms(decay=0.8),
    ),
    "adagrad": (optax.scale_by_rss(0.1, eps=1e-2), preconditioners.adagrad(eps=1e-2)),
    "adagrad from 0": (optax.scale_by_rss(0.0), preconditioners.adagrad()),
}


@pytest.fixture(autouse=True)
def ranks_may_differ():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", CASES)
def test_the_factor_is_what_the_optimizer_multiplies_gradients_by(name):
    tx, preconditioner = CASES[name]
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for seed in range(3):
        grads = gradients(seed)
        updates, state = update(grads, state, PARAMS)
        factors = jax.jit(preconditioner)(state, PARAMS)
        assert jax.tree.structure(factors) == jax.tree.structure(PARAMS)
        same = jax.tree.map(
            lambda u, f, g: jnp.allclose(u, f * g, rtol=1e-5), updates, factors, grads
        )
        assert jax.tree.all(same)


def test_nothing_has_moved_nothing_is_broken():
    """While optax.MultiSteps gathers gradients, the count is still 0."""
    state = optax.MultiSteps(optax.adam(0.1), 2).init(PARAMS)
    factors = preconditioners.adam()(state, PARAMS)
    assert jax.tree.all(jax.tree.map(lambda f: jnp.isfinite(f).all(), factors))


@pytest.mark.parametrize("name", CASES)
def test_a_leaf_without_any_gradient_has_no_step(name):
    """Where other weights of the leaf had one, a weight without one has the optimizer's factor."""
    tx, preconditioner = CASES[name]
    if name == "adagrad":
        tx = optax.scale_by_rss(0.0)
    grads = {"a": jnp.zeros((2, 3)), "b": [jnp.array([0.0, 1.0, 2.0]), None]}
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    factors = preconditioner(state, PARAMS)
    assert (factors["a"] == 0).all()
    assert (factors["b"][0][0] > 5) | name.startswith("adagrad")
    assert (factors["b"][0][1:] > 0).all()


@pytest.mark.parametrize(
    ("tx", "preconditioner", "expected"),
    [
        (optax.adam(0.1), preconditioners.adam(), 0.5),
        (optax.rmsprop(0.1, decay=0.75), preconditioners.rms(), 1.0),
        (optax.scale_by_rss(0.0), preconditioners.adagrad(), 0.5),
    ],
    ids=["adam", "rms", "adagrad"],
)
def test_low_precision_moments_are_read_in_float32(tx, preconditioner, expected):
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    _, state = tx.update({"w": jnp.full(3, 2.0, jnp.bfloat16)}, tx.init(params), params)
    factor = preconditioner(state, params)["w"]
    assert factor.dtype == jnp.float32
    assert jnp.allclose(factor, expected, rtol=1e-2)


def test_leaves_without_moments_have_no_factor():
    tx = optax.masked(optax.adam(0.1), {"a": True, "b": [False, None]})
    _, state = tx.update(gradients(0), tx.init(PARAMS), PARAMS)
    factors = preconditioners.adam()(state, PARAMS)
    assert factors["b"] == [None, None]
    assert factors["a"].shape == (2, 3)


def test_optimizers_that_do_not_fit_are_named():
    state = lambda tx: tx.init(PARAMS)
    with pytest.raises(ValueError, match="adam: no states with the fields"):
        preconditioners.adam()(state(optax.sgd(0.1)), PARAMS)
    with pytest.raises(ValueError, match="adam: 2 states with the fields"):
        preconditioners.adam()(state(optax.chain(optax.adam(0.1), optax.adam(0.1))), PARAMS)
    with pytest.raises(ValueError, match="rms: no states"):
        preconditioners.rms()(state(optax.rmsprop(0.1, centered=True)), PARAMS)
    with pytest.raises(ValueError, match="adagrad: no states"):
        preconditioners.adagrad()(state(optax.adam(0.1)), PARAMS)
    with pytest.raises(ValueError, match="give decay= what the optimizer was given"):
        preconditioners.rms()(state(optax.rmsprop(0.1, bias_correction=True)), PARAMS)
    with pytest.raises(ValueError, match=r"adam: 'a' has moments of the shape \(\), its parameter"):
        preconditioners.adam()(state(optax.novograd(0.1)), PARAMS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: preconditioners.adam(b2=1.0), r"adam\(b2=1.0\): a number in \[0, 1\) is needed"),
        (lambda: preconditioners.adam(eps=-1e-8), r"adam\(eps=-1e-08\): a number in \[0, inf\)"),
        (lambda: preconditioners.rms(decay=1.5), r"rms\(decay=1.5\)"),
        (lambda: preconditioners.adagrad(eps=float("nan")), r"adagrad\(eps=nan\)"),
        (lambda: preconditioners.rms(eps="1e-8"), "a number is needed, not a string; leave out"),
    ],
)
def test_numbers_that_no_optimizer_has_are_refused(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()
