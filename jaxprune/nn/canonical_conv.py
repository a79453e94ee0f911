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
    fast backward pass; those with dilation, groups, another order or an empty result keep that of
    `lax`. The result is that of `lax` either way. The fast path supports reverse mode, and forward
    over reverse mode (`jax.jvp` of `jax.grad`), but not forward mode alone.

    Args:
      lhs: images.
      rhs: kernel.
      window_strides: one per axis of the window.
      padding: "SAME", "VALID", or (low, high) per axis of the window.
      lhs_dilation: of the images; `rhs_dilation`: of the kernel; None: there is none.
      dimension_numbers: orders of the axes of images, kernel and result, such as `NHWC`.
      feature_group_count: number of groups of channels that do not mix; `batch_group_count`: of examples.
      precision: of the products; `preferred_element_type`: of their sums; None: those of `lax`.

    Returns:
      The convolved images.

    >>> image, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    >>> conv_general_dilated(image, kernel, (1, 1), "VALID", dimension_numbers=NHWC)[0, ..., 0]
    Array([[9., 9.], [9., 9.]], dtype=float32)
    """
    by_lax = partial(
        lax.conv_general_dilated,
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
    axis_order = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    is_plain = (
        lhs.ndim == 4
        and axis_order == lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
        and feature_group_count == batch_group_count == 1
        and all(dilation == 1 for dilation in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and preferred_element_type is None
    )
    if not is_plain or 0 in jax.eval_shape(by_lax).shape:
        return by_lax()
    strides = tuple(window_strides)
    window_shape = rhs.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], window_shape, strides, padding)
    if any(
        not 0 <= amount < size
        for axis_padding, size in zip(padding, window_shape, strict=True)
        for amount in axis_padding
    ):
        # XLA:CPU reads beyond the image where a convolution's padding is negative, as that of the
        # gradient would be.
        padding_config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
        lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), padding_config)
        padding = ((0, 0), (0, 0))
    return _conv(lhs, rhs, strides, tuple(map(tuple, padding)), precision)


def conv_for_backend(*args, **kwargs) -> jax.Array:
    """Returns the models' convolution: by `conv_general_dilated` from here on CPU, else that of `lax`."""
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
    image_size = np.array(inputs.shape[1:3])
    window_size = np.array(kernel.shape[:2])
    window_reach = (np.array(grad.shape[1:3]) - 1) * strides  # from the first window to the last
    padding_before = np.array(padding)[:, 0]

    # Each input pixel gathers what it gave: gradients spread by the strides, kernel turned by 180
    # degrees.
    rotated_kernel = lax.optimization_barrier(jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
    padding_pairs = _pairs(
        window_size - 1 - padding_before, image_size - 1 + padding_before - window_reach
    )
    input_grad = _nhwc(grad, rotated_kernel, (1, 1), padding_pairs, precision, lhs_dilation=strides)

    # Each kernel weight sums over the batch: input channels act as the batch, the batch as
    # channels.
    seen_size = window_size + window_reach - padding_before  # beyond this no window reaches
    images = inputs[:, : seen_size[0], : seen_size[1]].transpose(3, 1, 2, 0)
    images, grad = lax.optimization_barrier((images, grad.transpose(1, 2, 0, 3)))
    padding_pairs = _pairs(padding_before, np.maximum(seen_size - image_size, 0))
    kernel_grad = _nhwc(images, grad, (1, 1), padding_pairs, precision, rhs_dilation=strides)
    return input_grad, lax.optimization_barrier(kernel_grad).transpose(1, 2, 0, 3)


def _pairs(before: np.ndarray, after: np.ndarray) -> list[tuple[int, int]]:
    return [(int(low), int(high)) for low, high in zip(before, after, strict=True)]


_conv.defvjp(_forward, _backward)
