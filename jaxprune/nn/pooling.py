"""Max pooling whose gradient is fast on CPU, inside loops and outside."""

import jax
import jax.numpy as jnp


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Returns the maximum of each 2x2 window, with stride 2; an odd last row or column is dropped.

    The result is that of `nn.max_pool(x, (2, 2), (2, 2))`, whose gradient XLA:CPU computes 4-10
    times slower, by a scatter. The gradient of a tie is shared among its members instead of going
    to the first.

    Args:
      x: images [examples, height, width, channels].

    Returns:
      Images of half the height and width.

    >>> max_pool_2x2(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, ..., 0]
    Array([[ 5.,  7.], [13., 15.]], dtype=float32)
    """
    even_height = x.shape[1] // 2 * 2
    even_width = x.shape[2] // 2 * 2
    upper_rows = x[:, 0:even_height:2, :even_width]
    lower_rows = x[:, 1:even_height:2, :even_width]
    row_maxima = jnp.maximum(upper_rows, lower_rows)
    return jnp.maximum(row_maxima[:, :, 0::2], row_maxima[:, :, 1::2])
