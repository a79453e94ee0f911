import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp

X = jax.random.normal(jax.random.key(0), (32, 12))
Y = jnp.sin(X @ jax.random.normal(jax.random.key(1), (12, 4)))
STEPS = 18


def initial(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(2), 2)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (12, 16), dtype) / 4, "bias": jnp.zeros(16)},
        "b": {"kernel": jax.random.normal(keys[1], (16, 4), dtype) / 4, "bias": jnp.zeros(4)},
    }


def loss(params):
    h = jnp.tanh(X @ params["a"]["kernel"] + params["a"]["bias"][None])
    return jnp.mean((h @ params["b"]["kernel"] + params["b"]["bias"][None] - Y) ** 2)


METHODS = {
    "ste": jp.methods.ste(sparsity=0.75, end=15),
    "sr-ste": jp.methods.sr_ste(sparsity=0.75, end=15),
    "gmp": jp.methods.gmp(sparsity=0.75, begin=2, end=13, every=4),
}


def train(tx, params, steps=STEPS, state=None):
    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(jp.forward_params(params, state))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params) if state is None else state
    for _ in range(steps):
        params, state = step(params, state)
        yield params, state
    assert step._cache_size() == 1, "one compilation serves the whole run"


def test_ste_by_hand():
    params = {"w": jnp.array([[3.0, -2.0, 1.0, 0.5]])}
    tx = jp.straight_through(optax.sgd(1.0), jp.methods.ste(sparsity=0.5, end=9))
    state = tx.init(params)
    assert jp.forward_params(params, state)["w"].tolist() == [[3.0, -2.0, 0.0, 0.0]]
    grads = {"w": jnp.array([[0.0, 0.0, -2.5, 0.25]])}
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    assert params["w"].tolist() == [[3.0, -2.0, 3.5, 0.25]], "off the mask, too, weights learn"
    assert jp.forward_params(params, state)["w"].tolist() == [[3.0, 0.0, 3.5, 0.0]]


def test_sr_ste_pulls_what_is_off_the_mask():
    params = {"w": jnp.array([[3.0], [-2.0], [1.0], [0.5]])}
    tx = jp.straight_through(optax.sgd(1.0), jp.methods.sr_ste(sparsity=0.5, end=9, decay=0.1))
    updates, _ = tx.update({"w": jnp.ones((4, 1))}, tx.init(params), params)
    found = jnp.round(-updates["w"][:, 0], 6)
    assert jnp.array_equal(found, jnp.array([1.0, 1.0, 1.1, 1.05], jnp.float32))


def test_n_of_m_holds_along_the_input_axis():
    tx = jp.straight_through(optax.adam(1e-2), METHODS["sr-ste"])
    for _, state in train(tx, initial()):
        masks = jp.masks_of(state)
        assert (masks["a"]["kernel"].reshape(3, 4, 16).sum(1) == 1).all()
        assert (masks["b"]["kernel"].reshape(4, 4, 4).sum(1) == 1).all()


def test_top_kast_moves_no_weight_beyond_its_reach():
    params = {"w": jnp.array([[4.0, 3.0, 2.0, 1.0]])}
    method = jp.methods.top_kast(sparsity=0.75, backward_sparsity=0.5, end=9, decay=0.5)
    tx = jp.straight_through(optax.sgd(0.1, momentum=0.9), method)
    state = tx.init(params)
    updates, state = tx.update({"w": jnp.ones((1, 4))}, state, params)
    assert jnp.allclose(updates["w"], jnp.array([[-0.1, -0.25, 0.0, 0.0]]))
    assert (state.inner[0].trace["w"][0, 2:] == 0).all()
    for masks, kept in ((jp.masks_of(state), 1), (state.reach, 2)):
        assert int(masks["w"].sum()) == kept


def test_out_of_reach_the_optimizer_keeps_nothing():
    params = {"w": jnp.array([[4.0, 3.0, 0.5, 0.25]])}
    method = jp.methods.top_kast(sparsity=0.75, backward_sparsity=0.5, end=99)
    inner = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum=0.9))
    tx = jp.straight_through(inner, method)
    state = tx.init(params)
    for _ in range(5):
        updates, state = tx.update({"w": jnp.zeros((1, 4))}, state, params)
        params = optax.apply_updates(params, updates)
    assert params["w"][0, 2:].tolist() == [0.5, 0.25]
    assert params["w"][0, 0] < 4.0
    assert state.inner[1][0].trace["w"][0, 2:].tolist() == [0.0, 0.0]


def test_masks_that_end_with_the_updates_are_those_of_the_trained_weights():
    tx = jp.straight_through(optax.adam(0.05), jp.methods.ste(sparsity=0.75, end=STEPS))
    *_, (params, state) = train(tx, initial())
    _, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.75))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, masks, jp.masks_of(state)))


def test_surgery_cuts_below_and_splices_above():
    params = {"w": jnp.array([[1.0, 0.2, 0.95, 0.5]])}  # mean 0.6625: cut < 0.596, splice > 0.729
    tx = jp.straight_through(optax.sgd(1.0), jp.methods.surgery(end=9))
    state = tx.init(params)
    assert jp.masks_of(state)["w"].tolist() == [[True, False, True, False]]
    grads = {"w": jnp.array([[0.0, -1.0, 0.25, 0.0]])}  # 1, 1.2, 0.7, 0.5: mean 0.85
    updates, state = tx.update(grads, state, params)
    assert jp.masks_of(state)["w"].tolist() == [[True, True, False, False]]
    grads = {"w": jnp.array([[0.0, 0.25, -0.05, 0.0]])}  # 1, 0.95, 0.75, 0.5: mean 0.8
    params = optax.apply_updates(params, updates)
    updates, state = tx.update(grads, state, params)
    assert jp.masks_of(state)["w"].tolist() == [[True, True, False, False]], (
        "in the band: as it was"
    )


def test_the_network_of_other_optimizers_is_what_they_train():
    params = initial()
    sparse = jp.sparsify(optax.sgd(0.1), METHODS["gmp"])
    for tx in (optax.sgd(0.1), sparse):
        assert jp.forward_params(params, tx.init(params)) is params
    chained = optax.chain(jp.straight_through(optax.sgd(0.1), METHODS["ste"]))
    state = chained.init(params)
    jp.masks.check(jp.forward_params(params, state), jp.masks_of(state))


def test_methods_that_grow_from_zero_are_refused():
    with pytest.raises(ValueError, match="grows weights from zero"):
        jp.straight_through(optax.sgd(0.1), jp.methods.rigl(sparsity=0.5, every=2, end=4))
    with pytest.raises(ValueError, match="backward_sparsity lies between"):
        jp.methods.top_kast(sparsity=0.5, backward_sparsity=0.9, end=4)
    with pytest.raises(ValueError, match="no N:M pattern"):
        jp.methods.sr_ste(sparsity=0.6, end=3)
    with pytest.raises(ValueError, match="decay=-1"):
        jp.methods.sr_ste(sparsity=0.5, end=3, decay=-1.0)
    plan = jp.lottery.Plan(round_steps=3, rounds=1)
    with pytest.raises(ValueError, match="those of a ticket are zero"):
        jp.lottery_ticket(optax.sgd(0.1), METHODS["ste"], plan)


def test_what_is_missing_is_named():
    tx = jp.straight_through(optax.sgd(0.1), METHODS["ste"])
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(initial(), tx.init(initial()))
    by_gradient = jp.Method(
        jp.criteria.taylor, schedule=jp.schedules.every(1, sparsity=0.5, begin=0, end=3)
    )
    with pytest.raises(TypeError, match="'grads'"):
        jp.straight_through(optax.sgd(0.1), by_gradient).init(initial())
