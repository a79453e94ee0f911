"""The record of a training's masks, against masks that are looked at after every update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast_xla import jit_of_same_bits

import jaxprune as jp

KEY = jax.random.key(0)
METHODS = {
    "gmp": jp.methods.gmp(sparsity=0.8, begin=2, end=10, every=2),
    "rigl": jp.methods.rigl(sparsity=0.8, every=3, end=15),
    "ac_dc": jp.methods.ac_dc(sparsity=0.5, begin=2, end=14, every=3),
    "ste": jp.methods.ste(sparsity=0.5, end=20),
}


def params_of(key):
    return {"a": jax.random.normal(key, (20, 10)), "b": jnp.ones(3), "c": jnp.ones((4, 5)) / 3}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("packed", [False, True])
def test_against_every_mask(name, packed):
    method, params = METHODS[name], params_of(KEY)
    if method.straight_through:
        if packed:
            pytest.skip("straight_through has no packed masks")
        plain = jp.straight_through(optax.adam(0.1), method, key=KEY)
    else:
        plain = jp.sparsify(optax.adam(0.1), method, key=KEY, packed=packed)
    tx = jp.recorded(plain)

    @jit_of_same_bits
    def step(params, state, beside, t):
        grads = jax.tree.map(lambda w: jnp.cos(w + t), params)
        expected, beside = plain.update(grads, beside, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, beside, (updates, expected)

    state, beside, seen = tx.init(params), plain.init(params), []
    seen.append(jp.masks_of(state))
    for t in range(20):
        params, state, beside, (updates, expected) = step(params, state, beside, t)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, updates, expected)), "no update changes"
        seen.append(jp.masks_of(state))
    record = jp.record_of((state, ()))
    assert int(record.updates) == 20
    assert record.density["b"] is None
    assert record.explored["b"] is None
    for leaf in "ac":
        masks = np.stack([np.asarray(m[leaf]) for m in seen])
        assert float(record.density[leaf]) == pytest.approx(masks[:-1].mean(), rel=1e-5)
        assert np.array_equal(record.explored[leaf], masks.any(0))
    kept = sum(int(record.explored[leaf].sum()) for leaf in "ac")
    assert float(record.exploration) == pytest.approx(kept / 220)


def test_the_state_can_be_donated_and_resumed():
    tx = jp.recorded(jp.sparsify(optax.sgd(0.1), METHODS["gmp"]))
    params = params_of(KEY)
    step = jax.jit(lambda g, s, p: tx.update(g, s, p)[1], donate_argnums=1)
    state = step(params, tx.init(params), params)
    assert int(jp.record_of(step(params, state, params)).updates) == 2


def test_without_masks_or_without_a_record():
    with pytest.raises(ValueError, match="no sparse states"):
        jp.recorded(optax.sgd(0.1)).init(params_of(KEY))
    with pytest.raises(ValueError, match=r"no records.*jaxprune\.recorded"):
        jp.record_of(optax.sgd(0.1).init(params_of(KEY)))
