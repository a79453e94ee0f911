import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.transforms.average import average_of, averaged


def train(tx, params, steps):
    @jax.jit
    def step(params, state):
        grads = jax.tree.map(jnp.ones_like, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
        yield params, state
    assert step._cache_size() == 1


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_against_numpy(decay):
    params = {"a": [jnp.array([4.0, -1.0]), None], "b": jnp.ones(())}
    tx = averaged(optax.chain(optax.clip(0.5), optax.adam(0.1)), decay)
    plain = optax.chain(optax.clip(0.5), optax.adam(0.1))
    seen = []
    for (params_, state), (same, _) in zip(
        train(tx, params, 20), train(plain, params, 20), strict=True
    ):
        assert jax.tree.all(jax.tree.map(jnp.array_equal, params_, same)), "no update is changed"
        seen.append(np.asarray(params_["a"][0], np.float64))
        shares = (1 - decay) * decay ** np.arange(len(seen))[::-1]
        expected = (shares[:, None] * np.stack(seen)).sum(0) / shares.sum()
        found = average_of(params_, state)
        assert found["a"][0] == pytest.approx(expected, rel=1e-5)
        assert jax.tree.structure(found) == jax.tree.structure(params)


def test_decays_near_one_are_corrected_exactly():
    """1 - d^t in float32 is off by a percent here."""
    params = {"w": jnp.array([3.0])}
    for _, state in train(averaged(optax.sgd(0.0), 1 - 1e-6), params, 3):
        assert average_of(params, state)["w"] == pytest.approx([3.0], rel=1e-5)


def test_before_the_first_update_it_is_the_parameters():
    params = {"w": jnp.array([4.0, -1.0])}
    state = averaged(optax.sgd(1.0), 0.9).init(params)
    with jax.debug_nans(True):
        found = jax.jit(average_of)(params, state)
    assert found["w"].tolist() == [4.0, -1.0]
    assert average_of(params, optax.sgd(1.0).init(params)) is params


def test_narrow_floats_are_averaged_in_float32():
    params = {"w": jnp.full(3, 2.0, jnp.bfloat16), "n": jnp.int32(5)}
    tx = averaged(optax.sgd(0.0), 0.999)
    state = tx.init(params)
    assert state.average["w"].dtype == jnp.float32

    def step(state, _):
        return tx.update(jax.tree.map(jnp.zeros_like, params), state, params)[1], None

    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, length=2000))(state)
    found = average_of(params, state)
    assert found["w"].dtype == jnp.bfloat16
    assert found["w"].tolist() == [2.0, 2.0, 2.0], "in bfloat16 it would stop at about a half"
    assert (found["n"].dtype, int(found["n"])) == (jnp.int32, 5)


def test_float64():
    with jax.enable_x64(True):
        params = {"w": jnp.array([1.0, 2.0], jnp.float64)}
        *_, (params, state) = train(averaged(optax.sgd(0.125), 0.5), params, 2)
        found = average_of(params, state)["w"]
        assert found.dtype == jnp.float64
        assert found == pytest.approx(np.array([0.875, 1.875]) / 3 + np.array([0.75, 1.75]) / 1.5)


def test_extra_arguments_and_other_wrappers():
    """Within a chain and around a transform that takes more than gradients."""

    def update(updates, state, params=None, *, factor, **_):
        return jax.tree.map(lambda u: -factor * u, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    tx = optax.chain(averaged(optax.chain(optax.clip(1.0), inner), 0.5))
    params = {"w": jnp.array([4.0])}
    state = tx.init(params)
    for _ in range(2):  # to 2, then 0
        updates, state = tx.update({"w": jnp.array([9.0])}, state, params, factor=2.0)
        params = optax.apply_updates(params, updates)
    assert average_of(params, state)["w"] == pytest.approx([(0.25 * 2 + 0.5 * 0) / 0.75])


def test_gates_and_weights_are_averaged_together():
    gate = jp.gates.supermask(sparsity=0.5)
    theta = gate.init({"w": jnp.array([[3.0, -1.0]])}, jax.random.key(0))
    theta = theta._replace(gates={"w": jnp.array([[0.5, 0.2]])})
    tx = averaged(optax.chain(optax.sgd(0.1), gate.project()), 0.5)
    *_, (theta, state) = train(tx, theta, 2)
    found = average_of(theta, state)
    assert isinstance(found, jp.gates.Gated)
    assert found.params["w"] == pytest.approx(np.array([[3.0, -1.0]]))
    assert found.gates["w"] == pytest.approx(
        np.array([[0.4, 0.1]]) / 3 + np.array([[0.3, 0.0]]) / 1.5
    )
    assert gate.finalize(found)[0]["w"] == pytest.approx(np.array([[3.0, 0.0]]))


def test_what_is_wrong_is_named():
    for decay in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"decay={decay}"):
            averaged(optax.sgd(1.0), decay)
    params = {"w": jnp.ones(2)}
    tx = averaged(optax.sgd(1.0), 0.5)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, tx.init(params))
    twice = averaged(tx, 0.5)
    assert len(jax.tree.leaves(twice.init(params))) > 0
    with pytest.raises(ValueError, match="2 averages"):
        average_of(params, (tx.init(params), tx.init(params)))


def test_complex_weights_are_averaged():
    tx, params = jp.averaged(optax.sgd(1.0), 0.5), {"w": jnp.array([4 + 2j])}
    state = tx.init(params)
    for _ in range(2):  # to 3 + 2j, then 2 + 2j
        updates, state = tx.update({"w": jnp.array([1 + 0j])}, state, params)
        params = optax.apply_updates(params, updates)
    average = jp.average_of(params, state)["w"]
    assert average.dtype == params["w"].dtype
    assert jnp.allclose(average, (3 / 4 + 2 / 2) / (3 / 4) + 2j)


def test_seeds_side_by_side_have_averages_side_by_side():
    tx = jp.averaged(optax.sgd(0.5), 0.9)
    params = {"w": jnp.arange(24.0).reshape(2, 3, 4), "s": jnp.array([1.0, 2.0])}
    state = jax.vmap(tx.init)(params)
    updates, state = jax.vmap(tx.update)(params, state, params)
    params = optax.apply_updates(params, updates)
    together = jp.average_of(params, state)
    apart = jax.vmap(jp.average_of)(params, state)
    assert jax.tree.all(jax.tree.map(jnp.allclose, together, apart))
    one = jax.tree.map(lambda leaf: leaf[0], params)
    with pytest.raises(
        ValueError, match=r"average_of: 's' has averages of the shape \(2,\).*jax.vmap"
    ):
        jp.average_of(one, state)
