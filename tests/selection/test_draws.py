"""Numbers that are drawn where they are read are those that JAX draws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.selection import REPLACEMENTS
from jaxprune.selection.deferred import run_deferred
from jaxprune.selection.draws import threefry_uniform, uniform_by_leaf


def test_a_number_is_a_function_of_its_position():
    for seed, size in ((0, 1), (1, 1000), (2**31 - 1, 37)):
        key = jax.random.key(seed)
        first, second = jax.random.key_data(key)
        found = threefry_uniform(first, second, size=size)
        np.testing.assert_array_equal(found, jax.random.uniform(key, (size,)))


KEYS = {
    "threefry": jax.random.key(3),
    "rbg": jax.random.key(3, impl="rbg"),
    "two words": jax.random.PRNGKey(3),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_each_leaf_has_the_numbers_of_its_index(key):
    sizes = [5, 0, 12]

    def draw(key):
        return run_deferred(lambda: uniform_by_leaf(key, sizes), REPLACEMENTS)

    draws = jax.jit(draw)(key)
    for index, (size, found) in enumerate(zip(sizes, draws, strict=True)):
        expected = jax.random.uniform(jax.random.fold_in(key, index), (size,))
        np.testing.assert_array_equal(found, expected)


def test_a_compiled_change_of_masks_draws_what_an_eager_one_draws():
    params = {"a": jnp.arange(40.0).reshape(5, 8), "b": jnp.ones((3, 4))}
    tx = jp.sparsify(
        optax.sgd(0.1), jp.methods.set_(sparsity=0.5, every=1, end=9), key=jax.random.key(0)
    )
    state = tx.init(params)
    params = jp.masks.apply(params, jp.masks_of(state))
    grads = jax.tree.map(jnp.ones_like, params)
    eager = compiled = state
    update = jax.jit(tx.update)
    for _ in range(3):
        _, eager = tx.update(grads, eager, params)
        _, compiled = update(grads, compiled, params)
        jax.tree.map(np.testing.assert_array_equal, jp.masks_of(eager), jp.masks_of(compiled))
    moved = jax.tree.map(
        lambda a, b: int((a != b).sum()), jp.masks_of(state), jp.masks_of(compiled)
    )
    assert sum(jax.tree.leaves(moved)) > 0
