"""What an optimizer calls outside of its program, to print or to count, is called once in each update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import io_callback

import jaxprune as jp

KEY = jax.random.key(0)
PARAMS = {"w": jax.random.normal(KEY, (4, 6)), "bias": jnp.ones(6)}
RIGL = jp.methods.rigl(sparsity=0.5, every=2, end=9)
GMP = jp.methods.gmp(sparsity=0.5, begin=0, end=9, every=2)
NUMBER = jax.ShapeDtypeStruct((), jnp.float32)


def printing(count, grads):
    jax.debug.callback(lambda _: count(), grads["bias"])
    return grads


def conditional(count, grads):
    call = lambda: jax.debug.callback(lambda: count())
    jax.lax.cond(grads["bias"][0] > 0, call, lambda: None)
    return grads


def scaling(count, grads):
    scale = io_callback(lambda _: count(), NUMBER, grads["bias"])
    return jax.tree.map(lambda grad: grad * scale, grads)


def multi_steps(inner):
    return optax.MultiSteps(inner, 2)


TRANSFORMS = {
    "rigl": lambda inner: jp.sparsify(inner, RIGL, key=KEY),
    "ticket": lambda inner: jp.lottery_ticket(
        inner, jp.methods.magnitude(sparsity=0.5), jp.lottery.Plan(2, 1, rewind_to=1)
    ),
    "gmp, MultiSteps": lambda inner: jp.sparsify(multi_steps(inner), GMP),
    "rigl, MultiSteps": lambda inner: jp.sparsify(multi_steps(inner), RIGL, key=KEY),
    "straight-through, MultiSteps": lambda inner: jp.straight_through(
        multi_steps(inner), jp.methods.ste(sparsity=0.5, end=3)
    ),
}


@pytest.mark.parametrize("call", [printing, conditional, scaling])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_callbacks_are_called_once_in_each_update(name, call):
    calls = []

    def count():
        calls.append(name)
        return np.float32(1)

    called = optax.stateless(lambda grads, params: call(count, grads))
    tx = TRANSFORMS[name](optax.chain(called, optax.sgd(0.1, momentum=0.9)))
    params, state = PARAMS, tx.init(PARAMS)
    step = jax.jit(tx.update)
    jax.effects_barrier()
    calls.clear()
    for _ in range(4):
        updates, state = step(PARAMS, state, params)
        params = optax.apply_updates(params, updates)
    jax.effects_barrier()
    assert len(calls) == 4


@pytest.mark.parametrize("skips", [optax.skip_not_finite, None], ids=["skips", "moves"])
def test_a_step_of_multi_steps_is_known_before_it_is_taken(skips):
    inner = optax.MultiSteps(optax.adam(0.1), 2, should_skip_update_fn=skips)
    tx = jp.sparsify(inner, GMP)
    step = jax.jit(tx.update)
    state = tx.init(PARAMS)
    living = []
    nothing = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), PARAMS)
    for grads in (PARAMS, nothing if skips else PARAMS, PARAMS, PARAMS):
        _, state = step(grads, state, PARAMS)
        living.append(int(jp.masks_of(state)["w"].sum()))
    moves = [2] if skips else [1, 3]
    changes = [i for i in range(4) if living[i] != ([24, *living][i])]
    assert changes == moves
