"""Beside the hand-computed cases of the docstrings: what criteria promise about losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

RNG = np.random.default_rng(0)
D = np.array([1.0, 4.0, -0.5, 2.0], np.float32)
B = np.array([0.3, -1.0, 0.2, 0.0], np.float32)
separable = lambda params, x: jnp.mean(x) * jnp.sum(0.5 * D * params["w"] ** 2 + B * params["w"])
PARAMS = {"w": jnp.array([1.0, 0.5, -2.0, 0.1])}
BATCHES = [jnp.ones(3)]


def without(i):
    params = {"w": PARAMS["w"].at[i].set(0.0)}
    return float(separable(params, BATCHES[0]) - separable(PARAMS, BATCHES[0]))


def test_second_order_taylor_is_exact_for_a_separable_quadratic():
    diagonal = jp.signals.hessian_diagonal(separable, PARAMS, BATCHES, jax.random.key(0))
    grads = jp.signals.grads(separable, PARAMS, BATCHES)
    found = jp.criteria.second_order_taylor(PARAMS, grads=grads, hessian_diagonal=diagonal)
    np.testing.assert_allclose(
        found["w"], [abs(without(i)) for i in range(4)], rtol=1e-5, atol=1e-6
    )
    obd = jp.criteria.obd(PARAMS, gauss_newton_diagonal=diagonal)["w"]
    np.testing.assert_allclose(obd, 0.5 * D * np.square(PARAMS["w"]), rtol=1e-6)


def test_woodfisher_is_the_rise_after_the_others_have_made_up_for_it():
    g = RNG.normal(size=(9, 4))
    fisher = g.T @ g / 9 + 1e-2 * np.eye(4)
    w = RNG.normal(size=4)
    rises = []
    for q in range(4):  # min of d F d / 2 with d_q = -w_q
        others = [i for i in range(4) if i != q]
        d = np.zeros(4)
        d[q] = -w[q]
        d[others] = -np.linalg.solve(fisher[np.ix_(others, others)], fisher[others, q] * d[q])
        rises.append(0.5 * d @ fisher @ d)
    loss = lambda params, x: jnp.mean(x @ params["w"])
    params = {"w": jnp.asarray(w, jnp.float32)[:, None], "bias": jnp.zeros(1)}
    x = jnp.asarray(g, jnp.float32)
    inverse = jp.signals.inverse_fisher(loss, params, [x], block=4, damp=1e-2)
    scores = jp.criteria.woodfisher(params, inverse_fisher=inverse)
    assert scores["bias"] is None
    np.testing.assert_allclose(scores["w"].ravel(), rises, rtol=1e-3)


def test_fisher_by_hand():
    found = jp.criteria.fisher(PARAMS, fisher={"w": jnp.array([2.0, 8.0, 0.0, 200.0])})
    np.testing.assert_allclose(found["w"], [1.0, 1.0, 0.0, 1.0], rtol=1e-6)


def test_obd_keeps_what_the_network_bends_down_around():
    """f = w^2 and (f - 4)^2 / 2 at w = 1: the Hessian is 6 w^2 - 8 = -2, Gauss-Newton's is (2 w)^2 = 4."""
    apply = lambda params, x: (params["w"] ** 2)[None] * x
    output_loss = lambda outputs, x: jnp.mean(jnp.sum((outputs - 4.0) ** 2, -1)) / 2
    params, batches = {"w": jnp.array([1.0, 0.5])}, [jnp.ones((3, 1))]
    known = jp.signals.gatherers(
        batches, apply=apply, output_loss=output_loss, key=jax.random.key(0)
    )
    np.testing.assert_allclose(known["hessian_diagonal"](params)["w"], [-2, -6.5], rtol=1e-5)
    found = jp.signals.gauss_newton_diagonal(
        apply, output_loss, params, batches, jax.random.key(0), samples=4_000
    )
    np.testing.assert_allclose(found["w"], [4, 1], rtol=0.1)
    assert (known["gauss_newton_diagonal"](params)["w"] > 0).all()
    obd = jp.criteria.obd(params, gauss_newton_diagonal=found)["w"]
    np.testing.assert_allclose(obd, [2, 0.125], rtol=0.1)


def test_an_inverse_of_another_tree_is_refused():
    inverse = {"w": jnp.ones((3, 4, 4))}
    says = "'w', a leaf of 4 weights, has an inverse of 3 blocks of 4"
    with pytest.raises(ValueError, match=says):
        jp.criteria.woodfisher(PARAMS, inverse_fisher=inverse)
    for compensation in (jp.compensation.woodfisher, jp.compensation.fisher_blocks):
        with pytest.raises(ValueError, match=says):
            compensation(PARAMS, {"w": PARAMS["w"] > 0}, inverse_fisher=inverse)


SIGNALS = {
    "fisher": {"fisher"},
    "adam_second_moment": {"second_moment"},
    "obd": {"gauss_newton_diagonal"},
    "second_order_taylor": {"grads", "hessian_diagonal"},
    "woodfisher": {"inverse_fisher"},
    "snip": {"grads"},
    "grasp": {"hessian_gradient"},
    "synflow": {"synaptic_flow"},
    "gradient": {"grads"},
    "taylor": {"grads"},
    "magnitude_and_gradient": {"grads"},
    "momentum": {"momentum"},
    "accumulated_gradient": {"gradient_sum"},
    "unit_taylor": {"unit_taylor"},
    "movement": {"movement_sum"},
    "weight_change": {"initial_params"},
    "magnitude_increase": {"initial_params"},
    "large_init": {"initial_params"},
    "small_init": {"initial_params"},
    "large_init_large_final": {"initial_params"},
    "small_init_small_final": {"initial_params"},
    "large_final_same_sign": {"initial_params"},
}


@pytest.mark.parametrize("name", SIGNALS)
def test_leaves_without_signals_have_no_scores(name):
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
    value = jnp.eye(4)[None] if name == "woodfisher" else jnp.ones((2, 2))
    known = {signal: {"a": value, "b": None} for signal in SIGNALS[name]}
    criterion = getattr(jp.criteria, name)
    scores = criterion(params, **known, unread=1)
    assert scores["b"] is None
    assert scores["a"].shape == (2, 2)
    with pytest.raises(TypeError, match=rf"{name}\(\) missing .*'{min(known)}'"):
        criterion(params)


def test_leaves_without_scores_cannot_be_pruned():
    params, known = (
        {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))},
        {"a": jnp.ones((2, 2)), "b": None},
    )
    method = jp.Method(jp.criteria.fisher, schedule=jp.schedules.one_shot(sparsity=0.5))
    with pytest.raises(ValueError, match="no scores for 'b'"):
        jp.prune(params, method, fisher=known)
    _, masks = jp.prune(params, method, prunable="a", fisher=known)
    assert int(masks["a"].sum()) == 2
