import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp


def test_normalized_magnitude_has_norm_one_at_any_scale():
    w = jax.random.normal(jax.random.key(0), (5, 3))
    for scale in (1e-30, 1.0, 1e30):  # whose squares float32 cannot hold
        found = jp.criteria.normalized_magnitude({"w": scale * w})["w"]
        np.testing.assert_allclose(jnp.sum(found**2), 1.0, rtol=1e-5)
    assert jp.criteria.normalized_magnitude({"w": jnp.zeros(2)})["w"].tolist() == [0.0, 0.0]
    infinite = jp.criteria.normalized_magnitude({"w": jnp.array([3.0, -jnp.inf, 4.0])})["w"]
    np.testing.assert_allclose(infinite, [0.6, jnp.inf, 0.8], rtol=1e-6)
    half = jp.criteria.normalized_magnitude({"w": w.astype(jnp.bfloat16)})["w"]
    assert half.dtype == jnp.float32
