"""Means over masks: right where a running sum in the type of the values would stand still."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.selection.mask_counts import mean_marked


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(7,), (3, 5000), (3, 3, 8, 600)])
def test_the_mean_of_what_is_marked(shape, dtype):
    values = jnp.abs(jax.random.normal(jax.random.key(0), shape)).astype(dtype)
    mask = jax.random.bernoulli(jax.random.key(1), 0.7, shape)
    found = mean_marked(mask, values)
    expected = np.asarray(values, np.float64)[np.asarray(mask)].mean()
    np.testing.assert_allclose(float(found), expected, rtol=1e-5)


def test_rows_are_summed_apart():
    """One running sum of so many ones ends at 2^24, half of them."""
    ones = jnp.ones((2**13, 2**12), jnp.float32)
    assert float(mean_marked(ones > 0, ones)) == 1.0


def test_the_mean_of_nothing_is_zero():
    assert float(mean_marked(jnp.zeros((2, 3), bool), jnp.ones((2, 3)))) == 0.0
