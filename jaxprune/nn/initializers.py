"""The usual initialisers, drawn flat and then shaped.

The numbers are those of `flax.linen.initializers`, but XLA:CPU compiles random numbers of four
dimensions several times slower than those of one: seconds for each shape of kernel.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


def glorot_normal() -> nn.initializers.Initializer:
    """Returns the initialiser of normal values, cut at two deviations, of variance 2 / (inputs + outputs).

    Reference: X. Glorot, Y. Bengio. Understanding the Difficulty of Training Deep Feedforward
      Neural Networks. 2010.
    """
    return _truncated_normal(lambda inputs, outputs: 2 / (inputs + outputs))


def he_normal() -> nn.initializers.Initializer:
    """Returns the initialiser of normal values, cut at two deviations, of variance 2 / inputs.

    Reference: K. He, X. Zhang, S. Ren, J. Sun. Delving Deep into Rectifiers. 2015.
    """
    return _truncated_normal(lambda inputs, outputs: 2 / inputs)


def lecun_normal() -> nn.initializers.Initializer:
    """Returns the initialiser of normal values, cut at two deviations, of variance 1 / inputs.

    What TensorFlow calls variance scaling, as in the code of Lee et al. 2019 (SNIP).

    Reference: Y. LeCun, L. Bottou, G. Orr, K.-R. Müller. Efficient BackProp. 1998.
    """
    return _truncated_normal(lambda inputs, outputs: 1 / inputs)


def glorot_uniform() -> nn.initializers.Initializer:
    """Returns the initialiser of uniform values of variance 2 / (inputs + outputs).

    Reference: X. Glorot, Y. Bengio. Understanding the Difficulty of Training Deep Feedforward
      Neural Networks. 2010.
    """
    return _uniform(lambda inputs, outputs: 2 / (inputs + outputs))


def he_uniform() -> nn.initializers.Initializer:
    """Returns the initialiser of uniform values of variance 2 / inputs.

    Reference: K. He, X. Zhang, S. Ren, J. Sun. Delving Deep into Rectifiers. 2015.
    """
    return _uniform(lambda inputs, outputs: 2 / inputs)


def fan_in_uniform() -> nn.initializers.Initializer:
    """Returns the initialiser of uniform values between -1 / sqrt(inputs) and 1 / sqrt(inputs).

    The default of PyTorch's linear and convolutional layers, whose variance is 1 / (3 inputs).

    >>> kernel = fan_in_uniform()(jax.random.key(0), (4, 1000))
    >>> bool(0.49 < abs(kernel).max() <= 0.5)
    True
    """
    return _uniform(lambda inputs, outputs: 1 / (3 * inputs))


def normal(*, std: float) -> nn.initializers.Initializer:
    """Returns the initialiser of normal values of a given standard deviation, whatever the shape."""

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return std * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

    return init


def uniform(*, least: float, most: float) -> nn.initializers.Initializer:
    """Returns the initialiser of uniform values from `least` up to, but without, `most`, whatever the shape.

    >>> values = uniform(least=2.0, most=3.0)(jax.random.key(0), (10,))
    >>> bool((values >= 2).all() and (values < 3).all())
    True
    """

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, (math.prod(shape),), dtype, least, most).reshape(shape)

    return init


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns inputs and outputs of a kernel, each position of its window counted."""
    *window_shape, inputs, outputs = shape
    window_size = math.prod(window_shape)
    return window_size * inputs, window_size * outputs


def _uniform(variance: Callable[[int, int], float]) -> nn.initializers.Initializer:
    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        limit = math.sqrt(3 * variance(*_fans(shape)))
        flat_values = jax.random.uniform(key, (math.prod(shape),), dtype, -1)
        return flat_values.reshape(shape) * jnp.array(limit, dtype)

    return init


def _truncated_normal(variance: Callable[[int, int], float]) -> nn.initializers.Initializer:
    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        flat_values = jax.random.truncated_normal(key, -2, 2, (math.prod(shape),), dtype)
        standard_deviation = math.sqrt(variance(*_fans(shape))) / TRUNCATED_STD
        return flat_values.reshape(shape) * jnp.array(standard_deviation, dtype)

    return init


TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at -2 and 2
