"""Where scores are computed as they are read, functions of jaxprune are replaced, and no others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.selection import REPLACEMENTS


def test_every_replaced_function_is_named_by_its_module():
    for function in REPLACEMENTS:
        assert function.__name__.startswith("jaxprune.selection.")
    assert len({function.__name__ for function in REPLACEMENTS}) == len(REPLACEMENTS)


@pytest.mark.parametrize("function", REPLACEMENTS, ids=lambda function: function.__name__)
def test_a_criterion_may_jit_a_function_of_the_same_short_name(function):
    def smallest(scores):
        return -jnp.abs(scores)

    smallest.__name__ = function.__name__.rpartition(".")[2]
    jitted = jax.jit(smallest)

    def by_smallest(params, **_):
        return jax.tree.map(jitted, params)

    params = {"w": jnp.array([[1.0, -3.0, 2.0, 4.0]])}
    grads = jax.tree.map(jnp.zeros_like, params)
    method = jp.Method(criterion=by_smallest, schedule=jp.schedules.one_shot(sparsity=0.5))
    tx = jp.sparsify(optax.sgd(0.1), method)
    _, state = jax.jit(tx.update)(grads, tx.init(params), params)
    np.testing.assert_array_equal(jp.masks_of(state)["w"], [[True, False, True, False]])
