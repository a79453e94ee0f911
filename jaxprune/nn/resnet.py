"""Residual networks for CIFAR: 6n+2 layers in three stages of n blocks.

Reference: K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. 2016.
Section 4.2.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune.nn.canonical_conv import conv_for_backend
from jaxprune.nn.initializers import he_normal

HE_NORMAL = he_normal()
Shortcut = Literal["pad", "projection"]


def resnet20(
    *,
    num_classes: int = 10,
    shortcut: Shortcut = "pad",
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = HE_NORMAL,
) -> nn.Module:
    """Returns ResNet-20: three blocks each of 16, 32 and 64 filters, 269,722 parameters (paper: 0.27M).

    Args:
      num_classes: number of outputs.
      shortcut: shortcut of blocks in which the width changes. "pad" takes every other pixel and pads
        channels with zeros (the paper's option A); "projection" is a 1x1 convolution with batch
        normalisation (option B).
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel.

    Returns:
      A module with layers conv1, bn1, stage1_block1, ..., fc. `model.apply(variables, x)` gives
      logits; with `train=True, mutable=["batch_stats"]` batch statistics are used and their
      averages updated.

    Raises:
      ValueError: `shortcut` is neither of the two.

    >>> images = jax.numpy.zeros((5, 32, 32, 3))
    >>> variables = jax.eval_shape(resnet20().init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    269722
    """
    return _resnet(3, num_classes, shortcut, dtype, kernel_init)


def resnet56(
    *,
    num_classes: int = 10,
    shortcut: Shortcut = "pad",
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = HE_NORMAL,
) -> nn.Module:
    """Returns ResNet-56: nine blocks each of 16, 32 and 64 filters, 853,018 parameters (paper: 0.85M).

    Args:
      num_classes: number of outputs.
      shortcut: where the width changes, "pad" or "projection" (see `resnet20`).
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel.

    Returns:
      A module with layers conv1, bn1, stage1_block1, ..., fc; apply it like `resnet20`.

    Raises:
      ValueError: `shortcut` is neither of the two.

    >>> images = jax.numpy.zeros((5, 32, 32, 3))
    >>> variables = jax.eval_shape(resnet56().init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    853018
    """
    return _resnet(9, num_classes, shortcut, dtype, kernel_init)


def _resnet(blocks, num_classes, shortcut, dtype, kernel_init) -> nn.Module:
    if shortcut not in ("pad", "projection"):
        raise ValueError(f"resnet: shortcut={shortcut!r} must be 'pad' or 'projection'.")
    return ResNet(blocks, (16, 32, 64), num_classes, shortcut, dtype, kernel_init)


class ResNet(nn.Module):
    """A convolution, stages of residual blocks, the mean over pixels, and a linear classifier."""

    blocks: int
    filters: tuple[int, ...]
    num_classes: int
    shortcut: Shortcut
    dtype: Any
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images to logits; in training, by batch statistics, whose averages it updates."""
        layer_options = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        convolution = partial(
            nn.Conv,
            kernel_size=(3, 3),
            use_bias=False,
            conv_general_dilated=conv_for_backend,
            **layer_options,
        )
        batch_norm = partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype
        )
        x = nn.relu(batch_norm(name="bn1")(convolution(self.filters[0], name="conv1")(x)))
        for stage_index, filters in enumerate(self.filters, 1):
            for block_index in range(1, self.blocks + 1):
                stride = 2 if stage_index > 1 and block_index == 1 else 1
                block = Block(
                    filters,
                    stride,
                    self.shortcut,
                    convolution,
                    batch_norm,
                    name=f"stage{stage_index}_block{block_index}",
                )
                x = block(x)
        return nn.Dense(self.num_classes, name="fc", **layer_options)(x.mean((1, 2)))


class Block(nn.Module):
    """Two convolutions with batch normalisation, added to a shortcut."""

    filters: int
    stride: int
    shortcut: Shortcut
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block."""
        strides = (self.stride, self.stride)
        # One pixel on each side, as in the paper; "SAME" with stride 2 would pad on one side only.
        convolution = partial(self.conv, self.filters, padding=1)
        branch = nn.relu(self.norm(name="bn1")(convolution(strides=strides, name="conv1")(x)))
        branch = self.norm(name="bn2")(convolution(name="conv2")(branch))
        if x.shape == branch.shape:
            return nn.relu(x + branch)
        if self.shortcut == "pad":
            x = x[:, :: self.stride, :: self.stride]
            new_channels = self.filters - x.shape[-1]
            x = jnp.pad(
                x, ((0, 0), (0, 0), (0, 0), (new_channels // 2, new_channels - new_channels // 2))
            )
        else:
            x = self.conv(self.filters, kernel_size=(1, 1), strides=strides, name="proj")(x)
            x = self.norm(name="proj_bn")(x)
        return nn.relu(x + branch)
