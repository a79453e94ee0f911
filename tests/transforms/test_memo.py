"""Optimizers made inside traced functions leave nothing behind, and answers are remembered nevertheless."""

import gc
import weakref

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp
from jaxprune.transforms.memo import Memo, weak

PARAMS = {"w": jax.random.normal(jax.random.key(0), (4, 4))}
METHODS = {
    "gmp": lambda inner: jp.sparsify(inner, jp.methods.gmp(sparsity=0.5, begin=0, end=2, every=1)),
    "fixed": lambda inner: jp.fixed(inner, jp.masks.make(PARAMS)),
    "ticket": lambda inner: jp.lottery_ticket(
        inner, jp.methods.magnitude(sparsity=0.5), jp.lottery.Plan(2, 1, rewind_to=1)
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_learning_rates_under_vmap_do_not_leak(name):
    def train(learning_rate):
        tx = METHODS[name](optax.adam(learning_rate))

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(PARAMS, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), None, length=2)[0][0]

    with jax.checking_leaks():
        jax.jit(jax.vmap(train)).lower(jnp.array([0.1, 0.2]))


def test_neither_an_optimizer_nor_a_loss_is_kept():
    def update(grads, state, params=None, *, value_fn):
        return grads, state

    def run():
        inner = optax.GradientTransformationExtraArgs(optax.trace(0.9).init, update)
        tx = jp.fixed(inner, jp.masks.make(PARAMS))
        loss = lambda params: jnp.sum(params["w"])
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, value_fn=loss)
        return weakref.ref(inner.init), weakref.ref(loss)

    references = run()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_an_optimizer_that_lives_is_read_once():
    calls = []
    adam = optax.adam(0.1)

    def update(grads, state, params=None):
        calls.append(params)
        return adam.update(grads, state, params)

    tx = jp.fixed(optax.GradientTransformation(adam.init, update), jp.masks.make(PARAMS))
    state = tx.init(PARAMS)
    for _ in range(4):
        _, state = tx.update(PARAMS, state, PARAMS)
    traced = [params for params in calls if isinstance(params["w"], jax.core.Tracer)]
    assert len(traced) == 1


class Doubling:
    def __init__(self):
        self.calls = 0

    def double(self, number):
        self.calls += 1
        return 2 * number


def test_a_method_is_known_again_and_what_cannot_be_hashed_is_asked_anew():
    memo = Memo(most=2)
    doubling = Doubling()
    for _ in range(2):
        assert memo.answer((weak(doubling.double), 3), lambda: doubling.double(3)) == 6
    assert doubling.calls == 1
    for _ in range(2):
        assert memo.answer((weak([]), 4), lambda: doubling.double(4)) == 8
    assert doubling.calls == 3
    for number in (5, 6, 3):  # the oldest answers go
        memo.answer((weak(doubling.double), number), lambda number=number: doubling.double(number))
    assert doubling.calls == 6
