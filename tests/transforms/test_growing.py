"""Growing regularisation: what goes is pressed towards zero first, then removed; the rest makes up for it."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp
from jaxprune import structured

X = jax.random.normal(jax.random.key(0), (64, 8)) @ jax.random.normal(jax.random.key(1), (8, 8))
Y = jnp.tanh(X @ jax.random.normal(jax.random.key(2), (8, 3)))
MASKS = {"w": jnp.arange(24).reshape(8, 3) % 2 == 0, "b": None}
PARAMS = {"w": jax.random.normal(jax.random.key(3), (8, 3)), "b": jnp.zeros(3)}


def loss(params):
    return jnp.mean((X @ params["w"] + params["b"][None] - Y) ** 2)


def after(tx, steps, params=PARAMS, loss=loss):
    def one(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (params, tx.init(params))
    return jax.jit(lambda start: jax.lax.scan(one, start, length=steps)[0])(start)


def test_what_goes_decays_after_each_update_of_the_optimizer_until_it_goes():
    growth = optax.linear_schedule(0.0, 0.2, 10)
    params, _ = after(jp.growing(optax.adam(0.02), MASKS, decay=growth, until=20), 20)
    tx, expected = optax.adam(0.02), PARAMS
    state = tx.init(expected)
    for step in range(20):
        updates, state = tx.update(jax.grad(loss)(expected), state, expected)
        expected = optax.apply_updates(expected, updates)
        faded = jnp.where(MASKS["w"], expected["w"], (1 - growth(step)) * expected["w"])
        expected = {**expected, "w": faded}
    for name in PARAMS:
        assert jnp.allclose(params[name], expected[name], atol=1e-5), name


def test_beside_plain_sgd_it_is_an_l2_penalty():
    """Of the strength decay / learning rate, to first order in the decay."""
    rate, decay = 0.01, 1e-4
    params, _ = after(jp.growing(optax.sgd(rate), MASKS, decay=decay, until=50), 50)

    def penalised(w):
        return loss(w) + decay / rate / 2 * jnp.sum(jnp.where(MASKS["w"], 0, w["w"]) ** 2)

    expected, _ = after(optax.sgd(rate), 50, loss=penalised)
    plain, _ = after(optax.sgd(rate), 50)
    off = jnp.abs(params["w"] - expected["w"]).max()
    assert off < 0.05 * jnp.abs(plain["w"] - expected["w"]).max()


@pytest.mark.parametrize("optimizer", [optax.sgd(0.02, momentum=0.9), optax.adam(0.02)])
@pytest.mark.parametrize("pack", [False, True])
def test_what_goes_is_exactly_zero_from_then_on_and_its_moments_too(optimizer, pack):
    masks = jp.masks.pack(MASKS) if pack else MASKS
    tx = jp.growing(optimizer, masks, decay=0.5, until=5)
    before, state = after(tx, 5)
    assert float(jp.masks.sparsity(jp.masks_of(state))) == 0.0
    assert (before["w"] != 0).all()
    params, state = after(tx, 6)
    assert float(jp.masks.sparsity(jp.masks_of(state))) == 0.5
    assert ((params["w"] != 0) == MASKS["w"]).all()
    for leaf in jax.tree.leaves(state.inner):
        if leaf.shape == (8, 3):
            assert (leaf[~MASKS["w"]] == 0).all()


def test_at_once_it_is_fixed():
    fixed, _ = after(jp.fixed(optax.adam(0.02), MASKS), 7)
    growing, _ = after(jp.growing(optax.adam(0.02), MASKS, decay=1.0, until=0), 7)
    assert all(bool((fixed[name] == growing[name]).all()) for name in PARAMS)


def test_what_has_faded_costs_less_to_remove():
    """The others have made up for it: inputs are correlated."""
    dense, _ = after(optax.sgd(0.02), 400)
    growth = optax.linear_schedule(0.0, 0.1, 300)
    faded, _ = after(jp.growing(optax.sgd(0.02), MASKS, decay=growth, until=400), 400, dense)
    removed = lambda params: loss(jp.masks.apply(params, MASKS))
    assert removed(faded) < 0.65 * removed(dense)
    assert removed(faded) - loss(faded) < 0.25 * (removed(dense) - loss(dense))


def test_units_of_a_program_fade_wherever_they_run_through_it_and_shrink():
    def fn(params, x):
        return jax.nn.relu(x @ params["in"] + params["b"][None]) @ params["out"]

    keys = jax.random.split(jax.random.key(4), 2)
    params = {
        "in": jax.random.normal(keys[0], (8, 16)),
        "b": jnp.ones(16),
        "out": jax.random.normal(keys[1], (16, 3)),
    }
    graph = structured.trace(fn, params, X)
    masks = structured.prune(graph, params, sparsity=0.5)
    tx = jp.growing(optax.adam(0.01), masks, decay=1.0, until=30)
    params, state = after(tx, 40, params, lambda p: jnp.mean((fn(p, X) - Y) ** 2))
    small = structured.shrink(graph, params, jp.masks_of(state))
    assert jax.tree.map(jnp.shape, small.params) == {"in": (8, 8), "b": (8,), "out": (8, 3)}
    assert jnp.allclose(small.apply(small.params, X), fn(params, X), atol=1e-5)


def test_the_record_counts_what_fades_as_alive():
    tx = jp.recorded(jp.growing(optax.sgd(0.1), MASKS, decay=0.1, until=3))
    _, state = after(tx, 6)
    density = jp.record_of(state).density["w"]  # of the masks that gradients were taken with
    assert float(density) == pytest.approx((4 * 1.0 + 2 * 0.5) / 6)


def test_no_more_than_all_of_a_weight_goes():
    rising = optax.linear_schedule(0.0, 3.0, 3)
    params, _ = after(jp.growing(optax.sgd(0.0), MASKS, decay=rising, until=9), 3)
    assert (params["w"][~MASKS["w"]] == 0).all()


def test_bfloat16_stays_bfloat16():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    found, _ = after(jp.growing(optax.sgd(0.02), MASKS, decay=1.0, until=2), 4, params)
    assert found["w"].dtype == jnp.bfloat16
    assert ((found["w"] != 0) == MASKS["w"]).all()


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"until=-1"):
        jp.growing(optax.sgd(0.1), MASKS, decay=1.0, until=-1)
    with pytest.raises(TypeError, match="until=None"):
        jp.growing(optax.sgd(0.1), MASKS, decay=1.0, until=None)
    with pytest.raises(ValueError, match=r"decay=-1\.0"):
        jp.growing(optax.sgd(0.1), MASKS, decay=-1.0, until=1)
    with pytest.raises(ValueError, match=r"decay=1\.5"):
        jp.growing(optax.sgd(0.1), MASKS, decay=1.5, until=1)
    with pytest.raises(ValueError, match="'w' has the shape"):
        jp.growing(optax.sgd(0.1), {"w": jnp.ones(3, bool), "b": None}, decay=1.0, until=1).init(
            PARAMS
        )
    tx = jp.growing(optax.sgd(0.1), MASKS, decay=1.0, until=1)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_axes_that_do_not_fit_are_refused():
    tx = jp.growing(optax.sgd(0.1), MASKS, decay=0.1, until=2, axes={"w": jp.Axes(0, 1)})
    assert jp.masks_of(tx.init(PARAMS))["b"] is None
    tx = jp.growing(optax.sgd(0.1), MASKS, decay=0.1, until=2, axes={"w": jp.Axes(0, 2)})
    with pytest.raises(ValueError, match=r"'w' has the shape .* names other axes"):
        tx.init(PARAMS)
