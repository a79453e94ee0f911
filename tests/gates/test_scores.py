"""Gates of scores and thresholds: values, gradients and counts by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import gates

C = jnp.array([[2.0, -3.0, 5.0, 7.0]])  # the slope of the loss in each weight


def slopes(gate, theta, key=None, step=None):
    return jax.grad(lambda theta: jnp.vdot(C, gate.sample(theta, key, step)["w"]))(theta)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def near(found, expected):
    assert np.asarray(found) == pytest.approx(np.asarray(expected), rel=1e-5, abs=1e-7)


def test_soft_threshold_by_hand():
    w = jnp.array([[0.75, -1.5, 0.25, 0.0]])
    theta = gates.Gated({"w": w}, {"w": jnp.zeros(())})  # the threshold is a half
    gate = gates.soft_threshold(strength=0.1)
    near(gate.sample(theta)["w"], [[0.25, -1.0, 0.0, 0.0]])
    found = slopes(gate, theta)
    near(found.params["w"], [[2.0, -3.0, 0.0, 0.0]])
    near(found.gates["w"], -0.25 * (2.0 + 3.0))  # -sigmoid'(0) sum over the kept of sign(w) c
    network, masks = gate.finalize(theta)
    near(network["w"], [[0.25, -1.0, 0.0, 0.0]])
    assert masks["w"].tolist() == [[True, True, False, False]]
    assert float(gate.expected_l0(theta)) == 2


def test_soft_threshold_pulls_weights_and_thresholds_alike():
    params = {"a": jnp.array([[3.0, 4.0]]), "b": jnp.array([[1.0]]), "bias": jnp.array([9.0])}
    gate = gates.soft_threshold(strength={"a": lambda step: 0.1 * step, "b": 2.0}, init=-8.0)
    theta = gate.init(params, jax.random.key(0))
    assert {n: g.tolist() for n, g in theta.gates.items()} == {"a": -8.0, "b": -8.0}
    penalty = lambda theta: gate.penalty(theta, step=5)
    near(penalty(theta), 0.5 * (0.5 * (25 + 64) + 2.0 * (1 + 64)))
    found = jax.grad(penalty)(theta)
    near(found.params["a"], [[1.5, 2.0]])
    near(found.gates["a"], -4.0)
    near(found.gates["b"], -16.0)
    assert found.params["bias"] == 0


def test_edge_popup_by_hand():
    gate = gates.supermask(sparsity=0.5)
    w, s = jnp.array([[1.0, -2.0, 3.0, 4.0]]), jnp.array([[0.1, -0.4, 0.3, -0.2]])
    theta = gates.Gated({"w": w}, {"w": s})
    near(gate.sample(theta)["w"], [[0.0, -2.0, 3.0, 0.0]])
    found = slopes(gate, theta)
    near(found.gates["w"], jnp.sign(s) * w * C)
    near(found.params["w"], jnp.zeros((1, 4)))
    assert gate.finalize(theta)[1]["w"].tolist() == [[False, True, True, False]]
    assert float(gate.expected_l0(theta)) == 2


def test_edge_popup_begins_with_kaimings_scores():
    theta = gates.supermask(sparsity=0.5).init({"w": jnp.ones((3, 3, 4, 500))}, jax.random.key(0))
    scores, limit = np.asarray(theta.gates["w"]), 1 / 6  # of 36 inputs
    assert np.abs(scores).max() <= limit
    assert scores.std() == pytest.approx(limit / math.sqrt(3), rel=0.02)


def test_drawn_supermasks_by_hand():
    gate, count = gates.supermask(), 100_000
    s = jnp.array([[-1.0], [0.0], [2.0]])
    theta = gates.Gated({"w": jnp.full((3, count), 2.0)}, {"w": jnp.broadcast_to(s, (3, count))})
    p = sigmoid(s)
    near(gate.expected_l0(theta), p.sum() * count)
    drawn = gate.sample(theta, jax.random.key(0))["w"]
    assert set(np.unique(drawn)) == {0.0, 2.0}
    there = np.asarray(drawn != 0).mean(1, keepdims=True)
    assert (np.abs(there - p) < 3 * np.sqrt(p * (1 - p) / count)).all()
    loss = lambda theta: gate.sample(theta, jax.random.key(0))["w"].sum()
    near(jax.grad(loss)(theta).gates["w"][:, :1], 2 * p * (1 - p))  # there or not
    assert gate.finalize(theta)[1]["w"][:, 0].tolist() == [False, False, True]


def test_signed_constants_and_dynamic_scaling_by_hand():
    gate = gates.supermask(sparsity=0.75, signed_constant=True, dynamic_scaling=True)
    theta = gates.Gated(
        {"w": jnp.array([[1.0, -7.0, 5.0, -5.0]])}, {"w": jnp.array([[0.1, 0.4, 0.3, 0.2]])}
    )
    assert gate.sample(theta)["w"].tolist() == [[0.0, -20.0, 0.0, 0.0]]  # sqrt(100 / 4) * 4 / 1
    assert gate.finalize(theta)[0]["w"].tolist() == [[0.0, -20.0, 0.0, 0.0]]
    near(slopes(gate, theta).gates["w"], 20 * jnp.array([[1.0, -1, 1, -1]]) * C)
    none = gates.supermask(dynamic_scaling=True)  # nothing is above one half
    dead = none.finalize(none.init(theta.params, jax.random.key(0)))[0]
    assert dead["w"].tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_signed_constants_of_half_precision_are_roots_of_their_mean_squares():
    gate = gates.supermask(signed_constant=True)
    for size in (1e-4, 1e3):  # whose squares float16 does not hold
        params = {"w": jnp.array([[size, -size]], jnp.float16)}
        network = gate.finalize(gates.Gated(params, {"w": jnp.ones((1, 2))}))[0]
        assert network["w"].tolist() == params["w"].tolist()


@pytest.mark.parametrize("sparsity", [None, 0.5])
def test_weights_under_a_supermask_stay(sparsity):
    gate = gates.supermask(sparsity=sparsity)
    params = {"w": jnp.array([[1.0, -2.0, 3.0, 4.0]]), "bias": jnp.ones(4), "n": jnp.int32(3)}
    theta = gate.init(params, jax.random.key(0))
    tx = optax.chain(optax.sgd(0.1, momentum=0.9), optax.add_decayed_weights(-0.5), gate.project())
    state = tx.init(theta)
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, theta), state, theta)
        moved = optax.apply_updates(theta, updates)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, moved.params, params))
    assert not (moved.gates["w"] == theta.gates["w"]).any()
    biased = lambda theta: gate.sample(theta, jax.random.key(1))["bias"].sum()
    assert (jax.grad(biased, allow_int=True)(theta).params["bias"] == 0).all()


def test_movement_by_hand():
    gate = gates.movement(sparsity=0.5, end=10)
    w, s = jnp.array([[1.0, -2.0, 0.5, 0.0]]), jnp.array([[0.1, -0.4, 0.3, -0.2]])
    theta = gates.Gated({"w": w}, {"w": s})
    near(gate.sample(theta, step=10)["w"], [[1.0, 0.0, 0.5, 0.0]])
    found = slopes(gate, theta, step=10)
    near(found.gates["w"], w * C)  # also of weights that are not there
    near(found.params["w"], [[2.0, 0.0, 5.0, 0.0]])


def test_movement_keeps_exact_counts_on_a_cubic():
    gate = gates.movement(sparsity=0.9, begin=10, end=30, initial=0.2)
    params = {"a": jnp.ones((100, 10)), "b": jnp.ones((20, 10))}
    theta = gate.init(params, jax.random.key(0))
    theta = theta._replace(
        gates={"a": jax.random.normal(jax.random.key(1), (100, 10)), "b": theta.gates["b"]}
    )
    assert jnp.count_nonzero(theta.gates["b"]) == 0, "scores start at zero, and are ties"
    sample = jax.jit(lambda step: gate.sample(theta, step=step))
    final = jax.jit(lambda step: gate.finalize(theta, step))
    for step in (0, 15, 29, 99):
        progress = min(max((step - 10) / 20, 0), 1)
        target = 0.9 - 0.7 * (1 - progress) ** 3
        network, masks = final(step)
        for name, w in sample(step).items():
            kept = w.size - round(target * w.size)
            assert int((w != 0).sum()) == int(masks[name].sum()) == kept, (name, step)
            assert jnp.array_equal(w, network[name])
    assert jnp.array_equal(gate.finalize(theta)[0]["a"], network["a"]), "at its end, without a step"
    assert float(gate.expected_l0(theta)) == 100 + 20


@pytest.mark.parametrize(
    "gate", [gates.movement(sparsity=0.9, end=10), gates.supermask(sparsity=0.9)]
)
def test_ranked_scores_leave_no_layer_without_a_weight(gate):
    theta = gate.init({"w": jnp.ones((4, 1))}, jax.random.key(0))
    theta = theta._replace(gates={"w": jnp.array([[0.1], [0.3], [0.2], [0.0]])})
    assert gate.finalize(theta)[1]["w"].ravel().tolist() == [False, True, False, False]
    assert gate.sample(theta, None, 10)["w"].ravel().tolist() == [0, 1, 0, 0]
    assert gate.expected_l0(theta) == 1


def test_soft_movement_by_hand():
    gate = gates.soft_movement(strength=lambda step: 0.1 * step, begin=10, end=30, threshold=0.4)
    w, s = jnp.array([[1.0, -2.0, 0.5, 3.0]]), jnp.array([[0.0, -0.5, -0.6, -3.0]])
    theta = gates.Gated({"w": w, "v": jnp.ones((2, 2))}, {"w": s, "v": jnp.zeros((2, 2))})
    p = sigmoid(s)  # 0.5, 0.38, 0.35, 0.05; the threshold at step 20 is 0.4 (1 - 1/8) = 0.35
    for step, there in ((0, [1, 1, 1, 1]), (20, [1, 1, 1, 0]), (30, [1, 0, 0, 0])):
        near(gate.sample(theta, step=step)["w"], w * jnp.array([there]))
        assert gate.finalize(theta, step)[1]["w"].tolist() == [[bool(x) for x in there]]
    near(slopes(gate, theta, step=30).gates["w"], w * C * p * (1 - p))
    near(gate.penalty(theta, step=5), 0.5 * (p.sum() + 4 * 0.5) / 8)
    near(jax.grad(lambda t: gate.penalty(t, 5))(theta).gates["w"], 0.5 * p * (1 - p) / 8)
    assert float(gate.expected_l0(theta)) == 1 + 4


def test_continuous_by_hand():
    gate = gates.continuous(strength=0.1, begin=10, end=30, steepest=100.0)
    w, s = jnp.array([[1.0, -2.0, 0.5, 3.0]]), jnp.array([[0.0, -0.05, 0.05, 0.2]])
    theta = gates.Gated({"w": w}, {"w": s})
    for step, beta in ((0, 1), (10, 1), (20, 10), (30, 100), (99, 100)):
        p = sigmoid(beta * s)
        near(gate.sample(theta, step=step)["w"], w * p)
        near(gate.penalty(theta, step=step), 0.1 * p.sum())
    p = sigmoid(10 * s)
    found = slopes(gate, theta, step=20)
    near(found.params["w"], C * p)
    near(found.gates["w"], C * w * 10 * p * (1 - p))
    network, masks = gate.finalize(theta)
    assert network["w"].tolist() == [[0.0, 0.0, 0.5, 3.0]]
    assert masks["w"].tolist() == [[False, False, True, True]]
    assert float(gate.expected_l0(theta)) == 2
    start = gates.continuous(strength=0.1, end=30, init=-0.2).init({"w": w}, jax.random.key(0))
    near(start.gates["w"], jnp.full((1, 4), -0.2))


@pytest.mark.parametrize(
    ("factory", "wrong", "words"),
    [
        (gates.supermask, {"sparsity": 1.0}, r"supermask\(sparsity=1.0\)"),
        (gates.movement, {"sparsity": 0.5, "begin": 9, "end": 3}, "begin=9, end=3"),
        (gates.soft_movement, {"strength": 1.0, "end": 3, "threshold": 1.0}, "threshold=1.0"),
        (gates.continuous, {"strength": 1.0, "end": 3, "begin": 3}, "begin=3, end=3"),
        (gates.continuous, {"strength": 1.0, "end": 3, "steepest": 0.5}, "steepest=0.5"),
        (gates.continuous, {"strength": 1.0, "end": 3, "steepest": math.inf}, "steepest=inf"),
        (gates.continuous, {"strength": 1.0, "end": 3, "init": math.nan}, "init=nan"),
        (gates.soft_threshold, {"init": math.nan}, r"soft_threshold\(init=nan\)"),
        (gates.variational_dropout, {"init": math.nan}, "init=nan"),
    ],
)
def test_numbers_out_of_range_are_refused(factory, wrong, words):
    with pytest.raises(ValueError, match=words):
        factory(**wrong)


def test_strengths_that_match_no_leaf_are_named():
    gate = gates.soft_threshold(strength={"fc": 1.0, "conv": 2.0})
    with pytest.raises(ValueError, match="soft_threshold: strength: 'conv' matches no leaf"):
        gate.init({"fc": jnp.ones((2, 2))}, jax.random.key(0))
