"""SReLU: a piecewise linear activation; each unit learns two thresholds and two outer slopes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxprune.nn.initializers import uniform


class SReLU(nn.Module, kw_only=True):
    r"""The S-shaped rectified linear unit, with four parameters for each unit.

    $$f(x) = t_l + a_l \min(x - t_l, 0) + \min(\max(x - t_l, 0), t_r - t_l) + a_r \max(x - t_r, 0)$$

    equals $x$ between the thresholds $t_l$ and $t_r$. Its slope is $a_l$ below $t_l$ and $a_r$ above $t_r$.
    The upper threshold is $t_r = t_l + |w|$, never below $t_l$; $w$ is the parameter `width`. Initially
    $t_l = 0$, $a_r = 1$, $a_l$ is drawn from [0, 1) and $w$ from [0, 5): a leaky ReLU with a slope for each
    unit.

    Attributes:
      dtype: of the computation; None: that of inputs and parameters.
      name: name of the layer; `name` and `parent` are attributes of every Flax module.

    References:
      X. Jin et al. Deep Learning with S-shaped Rectified Linear Activation Units. 2016. Departure: initial
      values as in the code of Mocanu et al. 2018, where the paper adapts thresholds to the first examples.

    >>> params = {"left_threshold": 0.0, "left_slope": 0.5, "width": 2.0, "right_slope": 0.1}
    >>> params = {name: jnp.full(3, value) for name, value in params.items()}
    >>> SReLU().apply({"params": params}, jnp.array([[-4.0, 1.0, 12.0]]))
    Array([[-2.,  1.,  3.]], dtype=float32)
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps activations [..., units] to the same shape."""
        initial_values = {
            "left_threshold": nn.initializers.zeros,
            "left_slope": uniform(least=0.0, most=1.0),
            "width": uniform(least=0.0, most=5.0),
            "right_slope": nn.initializers.ones,
        }
        shape_of_one = (1,) * (x.ndim - 1) + x.shape[-1:]
        params = [
            self.param(name, initial, x.shape[-1:]).reshape(shape_of_one)
            for name, initial in initial_values.items()
        ]
        x, left_threshold, left_slope, width, right_slope = promote_dtype(
            x, *params, dtype=self.dtype
        )
        width = jnp.abs(width)
        distance = x - left_threshold
        below = left_slope * jnp.minimum(distance, 0)
        between = jnp.minimum(jnp.maximum(distance, 0), width)
        above = right_slope * jnp.maximum(distance - width, 0)
        return left_threshold + below + between + above
