"""Adam's second moment, wherever an optimizer's state holds it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

PARAMS = {"w": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "b": jnp.ones(2)}
GRADS = {"w": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.ones(2)}
NU = jax.tree.map(lambda g: 0.25 * g**2, GRADS)  # after one update with b2 = 0.75
adam = optax.adam(1e-2, b2=0.75)
HOLDERS = {
    "adam": adam,
    "adamw": optax.adamw(1e-2, b2=0.75),
    "nadam": optax.nadam(1e-2, b2=0.75),
    "amsgrad": optax.amsgrad(1e-2, b2=0.75),
    "lamb": optax.lamb(1e-2, b2=0.75),
    "rmsprop": optax.rmsprop(1e-2, decay=0.75),
    "chain": optax.chain(optax.clip(10.0), adam, optax.add_decayed_weights(0.1)),
    "MultiSteps": optax.MultiSteps(adam, 1),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2, b2=0.75),
    "apply_if_finite": optax.apply_if_finite(adam, 3),
    "masked": optax.masked(adam, {"w": True, "b": False}),
    "sparsify": jp.sparsify(adam, jp.methods.magnitude(sparsity=0.0)),
    "fixed": jp.fixed(optax.chain(optax.clip(10.0), adam), {"w": None, "b": None}),
}


def after_one_update(tx):
    state = tx.init(PARAMS)
    return tx.update(GRADS, state, PARAMS)[1]


@pytest.mark.parametrize("name", HOLDERS)
def test_it_is_found_in_every_state(name):
    found = jp.signals.second_moment(after_one_update(HOLDERS[name]))
    np.testing.assert_allclose(found["w"], NU["w"], rtol=1e-6)
    if name == "masked":
        assert found["b"] is None
    else:
        np.testing.assert_allclose(found["b"], NU["b"], rtol=1e-6)


SGD, LION, FACTORED = optax.sgd(0.1, momentum=0.9), optax.lion(0.1), optax.adafactor(0.1)


@pytest.mark.parametrize("tx", [SGD, LION, FACTORED], ids=["sgd", "lion", "adafactor"])
def test_a_state_without_one_is_refused(tx):
    with pytest.raises(ValueError, match=r"second_moment: no second moments \(nu\) in this"):
        jp.signals.second_moment(tx.init(PARAMS))


def test_several_are_refused():
    tx = optax.partition({"one": adam, "two": adam}, {"w": "one", "b": "two"})
    with pytest.raises(ValueError, match="second_moment: 2 second moments"):
        jp.signals.second_moment(tx.init(PARAMS))


def test_one_shot_with_what_training_has_left():
    """nu w^2 / 2 = 1, 16, 81, 4 over 8: half go."""
    half = jp.schedules.one_shot(sparsity=0.5)
    method = jp.Method(jp.criteria.adam_second_moment, schedule=half)
    found = jp.signals.second_moment(after_one_update(adam))
    scores = jp.criteria.adam_second_moment(PARAMS, second_moment=found)["w"]
    np.testing.assert_allclose(scores, jnp.array([[1, 16], [81, 4]]) / 8, rtol=1e-6)
    _, masks = jp.prune(PARAMS, method, second_moment=found)
    assert masks["w"].tolist() == [[False, True], [True, False]]


def test_while_training_it_comes_by_keyword():
    """Whoever calls `update` can hand it on: extra arguments are signals."""
    schedule = jp.schedules.one_shot(sparsity=0.5, at=1)
    method = jp.Method(jp.criteria.adam_second_moment, schedule=schedule)
    tx = jp.sparsify(adam, method)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(2):
        found = jp.signals.second_moment(state)
        updates, state = tx.update(GRADS, state, params, second_moment=found)
        params = optax.apply_updates(params, updates)
    assert jp.masks_of(state)["w"].tolist() == [[False, True], [True, False]]
    assert jp.signals.second_moment(state)["w"][0, 0] == 0
