"""Invariants that mutations showed no other test to hold (`tests/mutations`)."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp
from jaxprune import structured


def test_no_layer_is_emptied_by_rounding():
    params = {"small": jnp.ones((2, 2)), "large": jnp.ones((40, 40))}
    _, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.95))
    assert int(masks["small"].sum()) == 1
    assert int(masks["large"].sum()) == 80


def test_prune_does_not_revive():
    params = {"w": jnp.array([[5.0, 1.0, 2.0, 3.0]])}
    dead = {"w": jnp.array([[False, True, True, True]])}
    _, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.5), masks=dead)
    assert masks["w"].tolist() == [[False, False, True, True]]


def test_an_average_forgets_what_is_removed():
    params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    method = jp.methods.magnitude(sparsity=0.5, at=1)
    tx = jp.averaged(jp.sparsify(optax.sgd(0.1), method), 0.9)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update({"w": jnp.ones((1, 4))}, state, params)
        params = optax.apply_updates(params, updates)
    found = jp.average_of(params, state)
    assert not params["w"][0, :2].any(), "two of the weights are removed"
    assert not found["w"][0, :2].any()
    assert found["w"][0, 2:].all()


def test_only_the_tree_that_was_traced_is_shrunk():
    fn = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
    params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
    graph = structured.trace(fn, params, jnp.ones((1, 3)))
    masks = structured.prune(graph, params, sparsity=0.5)
    wider = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 5))}
    with pytest.raises(ValueError, match=r"'out' has the shape \(8, 5\)"):
        structured.shrink(graph, wider, jax.tree.map(lambda m: None, masks))
