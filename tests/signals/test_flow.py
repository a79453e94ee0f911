import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

SIZES = (5, 7, 6, 3)


def network(seed=0, sizes=SIZES):
    rng = np.random.default_rng(seed)
    shapes = itertools.pairwise(sizes)
    return {f"fc{i}": rng.normal(size=s).astype(np.float32) for i, s in enumerate(shapes)}


def apply(params, x):
    layers = list(params.values())
    for kernel in layers[:-1]:
        x = jax.nn.relu(x @ kernel)
    return x @ layers[-1]


EXAMPLE = jax.ShapeDtypeStruct((1, 5), jnp.float32)


def check_conservation(params, **tolerance):
    flow = jp.signals.synaptic_flow(apply, params, EXAMPLE)
    scores = list(jp.criteria.synflow(params, synaptic_flow=flow).values())
    for before, after in itertools.pairwise(scores):
        np.testing.assert_allclose(before.sum(0), after.sum(1), **tolerance)
    product = np.ones((1, 5)) @ np.linalg.multi_dot(
        [np.abs(k, dtype=np.float64) for k in params.values()]
    )
    for scores_of_layer in scores:
        np.testing.assert_allclose(scores_of_layer.sum(), product.sum(), **tolerance)
    return flow


def test_what_flows_into_a_hidden_unit_flows_out_of_it():
    flow = check_conservation(network(), rtol=3e-6)
    assert {f.dtype for f in flow.values()} == {jnp.dtype("float32")}


def test_in_float64_it_is_conserved_to_all_digits():
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(k, jnp.float64) for name, k in network().items()}
        check_conservation(wide, rtol=1e-14)


def test_other_leaves_and_bfloat16():
    params = network()
    half = {n: jnp.asarray(k, jnp.bfloat16) for n, k in params.items()}
    rounded = {n: np.asarray(k, np.float32) for n, k in half.items()}
    flow = jp.signals.synaptic_flow(lambda p, x: apply(p["net"], x), {"i": 3, "net": half}, EXAMPLE)
    assert flow["i"] == 0
    expected = jp.signals.synaptic_flow(apply, rounded, EXAMPLE)
    for name in half:
        np.testing.assert_allclose(flow["net"][name], expected[name], rtol=1e-6)


def test_no_flow_and_too_much_of_it_are_refused():
    dead = network() | {"fc1": np.zeros((7, 6), np.float32)}
    with pytest.raises(ValueError, match="nothing flows"):
        jp.signals.synaptic_flow(apply, dead, EXAMPLE)
    huge = jax.tree.map(lambda k: 1e20 * k, network())
    with pytest.raises(ValueError, match=r"beyond float32; .*enable_x64"):
        jp.signals.synaptic_flow(apply, huge, EXAMPLE)
