"""Max pooling whose gradient is fast on CPU, inside loops and outside."""

import jax
import jax.numpy as jnp


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Takes the maximum of each 2x2 window, with stride 2; an odd last row or column is dropped.

    The result is that of `nn.max_pool(x, (2, 2), (2, 2))`, whose gradient XLA:CPU computes 4-10
    times slower, by a scatter. The gradient of a tie is shared among its members instead of going
    to the first.

    >>> max_pool_2x2(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, ..., 0]
    Array([[ 5.,  7.], [13., 15.]], dtype=float32)
    """
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    upper, lower = x[:, 0:height:2, :width], x[:, 1:height:2, :width]
    rows = jnp.maximum(upper, lower)
    return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])
