"""A convolution that trains as fast inside `lax.scan` on CPU as outside.

Autodiff gives the two backward convolutions in permuted dimension orders. XLA:CPU rewrites those to
the NHWC order of its fast kernel, but not inside a loop body, where they run ten times slower and
worse. Here they are written in that order to begin with, as forward convolutions of transposed
operands; a barrier keeps XLA from folding the transpositions back in.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NHWC = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers=None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision=None,
    preferred_element_type=None,
) -> jax.Array:
    """`lax.conv_general_dilated` with a backward pass in canonical order, as `nn.Conv` takes it.

    Convolutions of images in NHWC and kernels in HWIO order, with any strides and padding, get the
    fast backward pass; those with dilation, groups or another order keep that of `lax`. The result
    is that of `lax` either way. The fast path supports reverse mode, and forward over reverse mode
    (`jax.jvp` of `jax.grad`), but not forward mode alone.

    Args: as `lax.conv_general_dilated`.

    Returns:
      The convolved images.

    >>> image, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    >>> conv_general_dilated(image, kernel, (1, 1), "VALID", dimension_numbers=NHWC)[0, ..., 0]
    Array([[9., 9.], [9., 9.]], dtype=float32)
    """
    order = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = (
        lhs.ndim == 4
        and order == lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
        and feature_group_count == batch_group_count == 1
        and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and preferred_element_type is None
    )
    if not plain:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
            precision,
            preferred_element_type,
        )
    strides, window = tuple(window_strides), rhs.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], window, strides, padding)
    if any(not 0 <= p < size for pair, size in zip(padding, window, strict=True) for p in pair):
        # XLA:CPU reads beyond the image where a convolution's padding is negative, as that of the
        # gradient would be.
        config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
        lhs, padding = lax.pad(lhs, jnp.zeros((), lhs.dtype), config), ((0, 0), (0, 0))
    return _conv(lhs, rhs, strides, tuple(map(tuple, padding)), precision)


def conv_for_backend(*args, **kwargs) -> jax.Array:
    """The models' convolution: `conv_general_dilated` from here on CPU, else that of `lax`."""
    on_cpu = jax.default_backend() == "cpu"
    return (conv_general_dilated if on_cpu else lax.conv_general_dilated)(*args, **kwargs)


def _nhwc(lhs, rhs, strides, padding, precision, lhs_dilation=(1, 1), rhs_dilation=(1, 1)):
    return lax.conv_general_dilated(
        lhs, rhs, strides, padding, lhs_dilation, rhs_dilation, NHWC, precision=precision
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(inputs, kernel, strides, padding, precision):
    return _nhwc(inputs, kernel, strides, padding, precision)


def _forward(inputs, kernel, strides, padding, precision):
    return _nhwc(inputs, kernel, strides, padding, precision), (inputs, kernel)


def _backward(strides, padding, precision, saved, grad):
    inputs, kernel = saved
    size, window = np.array(inputs.shape[1:3]), np.array(kernel.shape[:2])
    reach = (np.array(grad.shape[1:3]) - 1) * strides  # from the first window to the last
    before = np.array(padding)[:, 0]

    # Each input pixel gathers what it gave: gradients spread by the strides, kernel turned by 180
    # degrees.
    turned = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    around = _pairs(window - 1 - before, size - 1 + before - reach)
    input_grad = _nhwc(grad, turned, (1, 1), around, precision, lhs_dilation=strides)

    # Each kernel weight sums over the batch: input channels act as the batch, the batch as
    # channels.
    seen = window + reach - before  # beyond this no window reaches
    images = inputs[:, : seen[0], : seen[1]].transpose(3, 1, 2, 0)
    images, grad = lax.optimization_barrier((images, grad.transpose(1, 2, 0, 3)))
    around = _pairs(before, np.maximum(seen - size, 0))
    kernel_grad = _nhwc(images, grad, (1, 1), around, precision, rhs_dilation=strides)
    return input_grad, lax.optimization_barrier(kernel_grad).transpose(1, 2, 0, 3)


def _pairs(before: np.ndarray, after: np.ndarray) -> list[tuple[int, int]]:
    return [(int(low), int(high)) for low, high in zip(before, after, strict=True)]


_conv.defvjp(_forward, _backward)
