"""Signals of activations against numbers computed by hand or by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import criteria, patterns, schedules, signals

PARAMS = {
    "w1": jax.random.normal(jax.random.key(0), (4, 5)),
    "w2": jnp.ones((5, 2)),
    "bias": jnp.ones((1, 5)),
}


def apply(p, x):
    return jax.nn.relu(x @ p["w1"] + p["bias"]) @ p["w2"]


def batches():
    x = jax.random.normal(jax.random.key(1), (7, 4))
    return [x[:4], x[4:]]


def test_moments_are_means_over_all_examples():
    x = np.concatenate(batches())
    found = signals.input_moments(apply, PARAMS, batches())
    np.testing.assert_allclose(found["w1"][:, 0], (x**2).mean(0), rtol=1e-5)
    hidden = np.maximum(x @ np.asarray(PARAMS["w1"]) + 1, 0)
    np.testing.assert_allclose(found["w2"][:, 0], (hidden**2).mean(0), rtol=1e-5)
    assert found["bias"] is None


def test_grams_have_the_moments_on_their_diagonal():
    x = np.concatenate(batches())
    found = signals.grams(apply, PARAMS, batches())
    np.testing.assert_allclose(found["w1"], x.T @ x / 7, rtol=1e-5, atol=1e-6)
    moments = signals.input_moments(apply, PARAMS, batches())
    np.testing.assert_allclose(jnp.diag(found["w2"]), moments["w2"][:, 0], rtol=1e-5)
    assert found["bias"] is None


def test_a_kernel_that_is_used_twice_has_the_mean_of_both():
    params = {"w": jnp.eye(2)}
    twice = lambda p, x: (x @ p["w"], (3 * x) @ p["w"])
    found = signals.input_moments(twice, params, [jnp.ones((1, 2))])
    np.testing.assert_allclose(found["w"], [[5.0], [5.0]])  # of 1 and 9


def test_outputs_of_units():
    x = np.concatenate(batches())
    found = signals.outputs(apply, PARAMS, batches(), bins=4)
    hidden = np.maximum(x @ np.asarray(PARAMS["w1"]) + 1, 0)
    np.testing.assert_allclose(found.unit_means["w1"][0], hidden.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.unit_zeros["w1"][0], (hidden == 0).mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        found.unit_magnitudes["w2"][0], np.abs(hidden @ np.ones((5, 2))).mean(0), rtol=1e-5
    )
    for unit in range(5):
        counts, _ = np.histogram(hidden[:, unit], bins=4)
        p = counts[counts > 0] / 7
        assert float(found.unit_entropies["w1"][0, unit]) == pytest.approx(
            -(p * np.log(p)).sum(), abs=1e-5
        )
    assert found.unit_ranks["w1"] is None, "units of a dense layer have no map"
    assert found.unit_means["bias"] is None


def test_ranks_of_feature_maps():
    kernel = jnp.zeros((1, 1, 2, 2)).at[0, 0, 0, 0].set(1.0).at[0, 0, 1, 1].set(1.0)
    conv = lambda p, x: jax.lax.conv_general_dilated(
        x, p["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    first, second = jnp.eye(4), jnp.ones((4, 4))  # of rank 4 and 1
    x = jnp.stack([first, second], -1)[None]
    found = signals.outputs(conv, {"k": kernel}, [x])
    np.testing.assert_array_equal(found.unit_ranks["k"].ravel(), [4.0, 1.0])
    assert signals.outputs(conv, {"k": kernel}, [x], ranks=False).unit_ranks["k"] is None


def test_a_kernel_that_is_used_on_maps_and_on_vectors():
    shared = lambda p, x: (jax.nn.relu(x @ p["w"]).sum(), x.mean((1, 2)) @ p["w"])
    found = signals.outputs(shared, {"w": jnp.eye(2)}, [jnp.ones((1, 3, 3, 2))])
    np.testing.assert_array_equal(found.unit_ranks["w"], [[1.0, 1.0]])
    np.testing.assert_array_equal(found.unit_means["w"], [[1.0, 1.0]])


def test_batches_may_be_a_generator_and_progress_is_told():
    told = []
    signals.outputs(apply, PARAMS, (b for b in batches()), progress=told.append)
    assert told == [1, 2]
    with pytest.raises(ValueError, match="there is none"):
        signals.outputs(apply, PARAMS, [])


def test_wanda_prunes_within_each_output():
    inputs = signals.input_moments(apply, PARAMS, batches())
    method = jp.Method(
        criteria.wanda, schedule=schedules.one_shot(sparsity=0.5), pattern=patterns.groups()
    )
    _, masks = jp.prune(PARAMS, method, input_moments=inputs)
    score = np.abs(PARAMS["w1"]) * np.sqrt(np.asarray(inputs["w1"]))
    best = np.sort(score, axis=0)[-2:]
    np.testing.assert_array_equal(masks["w1"], score >= best[0])
    assert masks["w2"].sum(0).tolist() == [3, 3] or masks["w2"].sum(0).tolist() == [2, 2]


@pytest.mark.parametrize("name", ["apoz", "entropy"])
def test_units_go_by_what_they_give(name):
    found = signals.outputs(apply, PARAMS, batches())
    signal = {
        "apoz": {"unit_zeros": found.unit_zeros},
        "entropy": {"unit_entropies": found.unit_entropies},
    }[name]
    method = jp.Method(
        getattr(criteria, name),
        schedule=schedules.one_shot(sparsity=0.4),
        pattern=patterns.channel(),
    )
    _, masks = jp.prune(PARAMS, method, prunable="w1", **signal)
    (values,) = signal.values()
    worth = np.asarray(values["w1"][0]) * (-1 if name == "apoz" else 1)
    kept = np.flatnonzero(np.asarray(masks["w1"]).any(0))
    assert len(kept) == 3
    assert worth[kept].min() >= np.delete(worth, kept).max()


def test_a_leaf_without_a_signal_is_not_pruned_silently():
    params = {**PARAMS, "table": jnp.ones((3, 4))}
    inputs = signals.input_moments(apply, params, batches())
    method = jp.Method(criteria.wanda, schedule=schedules.one_shot(sparsity=0.5))
    with pytest.raises(ValueError, match=r"wanda: no scores for 'table'.*prunable="):
        jp.prune(params, method, input_moments=inputs)
    _, masks = jp.prune(params, method, prunable="^w", input_moments=inputs)
    assert masks["table"] is None


def test_ria_by_hand():
    w, x = np.array([[1.0, 3.0], [2.0, 2.0]]), np.array([[16.0], [1.0]])
    score = criteria.ria({"w": jnp.asarray(w)}, input_moments={"w": jnp.asarray(x)})["w"]
    by_hand = (w / w.sum(0) + w / w.sum(1, keepdims=True)) * np.array([[2.0], [1.0]])
    np.testing.assert_allclose(score, by_hand, rtol=1e-6)
