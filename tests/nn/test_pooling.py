import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.nn import max_pool_2x2


def plain(x):
    return nn.max_pool(x, (2, 2), (2, 2))


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 9, 2), (1, 2, 3, 1)])
def test_values_and_gradients_are_those_of_flax(shape):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))
    np.testing.assert_array_equal(max_pool_2x2(x), plain(x))
    grad = lambda pool: jax.jit(jax.grad(lambda x: jnp.sum(jnp.square(pool(x)))))
    np.testing.assert_array_equal(grad(max_pool_2x2)(x), grad(plain)(x))


def test_a_tie_shares_its_gradient():
    grad = jax.grad(lambda x: max_pool_2x2(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(grad, jnp.full((1, 2, 2, 1), 0.25))
