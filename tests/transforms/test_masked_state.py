"""Each leaf of an optimizer state has the mask of the parameters that are in it, however they are named."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp
from jaxprune.transforms.masked_state import masks_of_state
from jaxprune.transforms.mirrored_state import mirrors

KEY = jax.random.key(0)
PARAMS = {
    "a": {"kernel": jax.random.normal(KEY, (8, 8)), "bias": jnp.zeros(8)},
    "b": {"kernel": jax.random.normal(jax.random.key(1), (8, 4))},
}
GRADS = jax.tree.map(lambda p: jax.random.normal(jax.random.key(5), p.shape), PARAMS)
AC_DC = jp.methods.ac_dc(sparsity=0.5, begin=2, end=6, every=1)


class Linear(NamedTuple):
    weight: jax.Array


class Moments(NamedTuple):
    weight: jax.Array
    mu: Linear


class Traces(NamedTuple):
    weight: jax.Array
    trace: Linear


def states(inner):
    """Parameters, states and masks of six updates under AC/DC, the last four without gradients."""
    tx = jp.sparsify(inner, AC_DC)
    params, state = PARAMS, tx.init(PARAMS)
    step = jax.jit(tx.update)
    for i in range(6):
        grads = GRADS if i < 2 else jax.tree.map(jnp.zeros_like, GRADS)
        updates, state = step(grads, state, params)
        params = optax.apply_updates(params, updates)
        yield params, state, jp.masks_of(state)


def matrices_flat(inner):
    labels = lambda tree: jax.tree.map(lambda p: "matrix" if p.ndim > 1 else "vector", tree)
    return optax.partition({"matrix": optax.flatten(inner), "vector": inner}, labels)


@pytest.mark.parametrize(
    "wrap", [optax.flatten, matrices_flat, lambda i: optax.chain(optax.flatten(i))]
)
def test_weights_that_come_back_bring_nothing_from_a_flattened_state(wrap):
    inner = optax.sgd(0.1, momentum=0.9)
    for (params, *_), (expected, *_) in zip(states(wrap(inner)), states(inner), strict=True):
        assert all(
            jnp.allclose(a, b, atol=1e-7)
            for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True)
        )


@pytest.mark.parametrize("packed", [False, True])
def test_a_vector_has_the_masks_of_its_parameters_in_their_order(packed):
    masks = jp.masks.make(PARAMS)
    masks["a"]["kernel"] = PARAMS["a"]["kernel"] > 0
    masks["b"]["kernel"] = PARAMS["b"]["kernel"] > 0
    vector = jnp.concatenate([jnp.ones(8, bool), *(masks[name]["kernel"].ravel() for name in "ab")])
    given = jp.masks.pack(masks) if packed else masks
    tx = optax.flatten(optax.adam(0.1))
    count, mu, nu = masks_of_state(tx, tx.init(PARAMS), PARAMS, given)
    assert count is None
    assert jnp.array_equal(mu, vector)
    assert jnp.array_equal(nu, vector)
    tx = matrices_flat(optax.trace(0.9))
    matrix, bias = masks_of_state(tx, tx.init(PARAMS), PARAMS, given)
    assert jnp.array_equal(matrix, vector[8:])
    assert bias is None


def test_a_vector_alone_is_a_vector_already():
    params = {"w": jnp.ones(3)}
    masks = {"w": jnp.array([True, False, True])}
    tx = optax.flatten(optax.trace(0.9))
    assert masks_of_state(tx, tx.init(params), params, masks)[0].tolist() == [True, False, True]


def test_vectors_of_which_nobody_can_tell_what_is_in_them_are_refused():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 2))}
    inner = optax.flatten(optax.trace(0.9))
    parts = optax.partition({"a": inner, "b": inner}, {"a": "a", "b": "b"})
    tx = jp.sparsify(parts, jp.methods.magnitude(sparsity=0.5))
    with pytest.raises(
        ValueError, match=r"6 numbers in one vector, and 2 sets .* leave optax.flatten out"
    ):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize(
    "inner", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)], ids=["adam", "sgd"]
)
@pytest.mark.parametrize("kind", [Moments, Traces])
def test_fields_of_the_parameters_named_like_those_of_a_state(kind, inner):
    kernels = jax.random.normal(KEY, (2, 6, 6))
    params = kind(kernels[0], Linear(kernels[1]))
    assert [index for index in mirrors(params, inner.init(params)) if index is not None] == (
        [0, 1] if len(jax.tree.leaves(inner.init(params))) == 2 else [0, 1, 0, 1]
    )
    tx = jp.sparsify(inner, jp.methods.magnitude(sparsity=0.5), prunable="weight")
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    leaves = [leaf for leaf in jax.tree.leaves(state.inner) if leaf.ndim == 2]
    for leaf, mask in zip(leaves, jax.tree.leaves(jp.masks_of(state)) * 2, strict=False):
        assert jnp.array_equal(leaf != 0, mask)


def test_a_masked_node_stands_for_what_is_not_there():
    params = Traces(jnp.ones((2, 2)), Linear(jnp.ones((2, 2))))
    only_outer = optax.masked(optax.trace(0.9), Traces(True, Linear(False)))
    only_inner = optax.masked(optax.trace(0.9), Traces(False, Linear(True)))
    assert mirrors(params, only_outer.init(params)) == [0]
    assert mirrors(params, only_inner.init(params)) == [1]


def test_a_path_that_ends_with_those_of_two_parameters_is_refused():
    params = {"weight": jnp.ones((2, 2)), "mu": {"weight": jnp.ones((2, 2))}}
    assert mirrors(params, {"mu": {"weight": jnp.ones(3)}}) == [None]
    with pytest.raises(
        ValueError, match=r"'mu/weight' may be .* 'weight' or of 'mu/weight'; rename"
    ):
        mirrors(params, {"mu": {"weight": jnp.ones((2, 2))}})
