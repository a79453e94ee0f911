"""Conv-2, Conv-4 and Conv-6, the scaled-down VGGs for CIFAR-10 of the lottery-ticket paper.

Reference: J. Frankle, M. Carbin. The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural
Networks. 2019.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxprune.nn.canonical_conv import conv_for_backend
from jaxprune.nn.initializers import glorot_normal
from jaxprune.nn.pooling import max_pool_2x2

GLOROT_NORMAL = glorot_normal()


def conv_2(
    *,
    num_classes: int = 10,
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = GLOROT_NORMAL,
) -> nn.Module:
    """Returns Conv-2: two 3x3 convolutions of 64 filters, pooling, 256-256-10: 4,301,642 parameters.

    The paper prints 4.3M.

    Args:
      num_classes: number of outputs.
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel; biases start at zero.

    Returns:
      A module with layers conv1, conv2, ..., fc1, fc2, fc3: `model.apply(variables, x)` gives
      logits.

    >>> images = jax.numpy.zeros((5, 32, 32, 3))
    >>> variables = jax.eval_shape(conv_2().init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
    4301642
    """
    return ConvNet((64,), num_classes, dtype, kernel_init)


def conv_4(
    *,
    num_classes: int = 10,
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = GLOROT_NORMAL,
) -> nn.Module:
    """Returns Conv-4: Conv-2 with two more convolutions of 128 filters, 2,425,930 parameters.

    The paper prints 2.4M.

    Args:
      num_classes: number of outputs.
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel; biases start at zero.

    Returns:
      A module with layers conv1, ..., conv4, fc1, fc2, fc3: `model.apply(variables, x)` gives logits.

    >>> images = jax.numpy.zeros((5, 32, 32, 3))
    >>> variables = jax.eval_shape(conv_4().init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
    2425930
    """
    return ConvNet((64, 128), num_classes, dtype, kernel_init)


def conv_6(
    *,
    num_classes: int = 10,
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = GLOROT_NORMAL,
) -> nn.Module:
    """Returns Conv-6: Conv-4 with two more convolutions of 256 filters, 2,262,602 parameters.

    The paper prints 1.7M, of which 1.1M in convolutions. The layers that it lists have 1.1M in
    convolutions, as here, and 1.1M after them.

    Args:
      num_classes: number of outputs.
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel; biases start at zero.

    Returns:
      A module with layers conv1, ..., conv6, fc1, fc2, fc3: `model.apply(variables, x)` gives logits.

    >>> images = jax.numpy.zeros((5, 32, 32, 3))
    >>> variables = jax.eval_shape(conv_6().init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
    2262602
    """
    return ConvNet((64, 128, 256), num_classes, dtype, kernel_init)


class ConvNet(nn.Module):
    """Pairs of 3x3 convolutions, each pair then pooled, and fully connected layers 256-256-classes."""

    filters: tuple[int, ...]
    num_classes: int
    dtype: Any
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images to logits; there is nothing that differs in training."""
        del train
        layer_options = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        convolution = partial(
            nn.Conv, kernel_size=(3, 3), conv_general_dilated=conv_for_backend, **layer_options
        )
        for pair_index, filters in enumerate(self.filters):
            x = nn.relu(convolution(filters, name=f"conv{2 * pair_index + 1}")(x))
            x = nn.relu(convolution(filters, name=f"conv{2 * pair_index + 2}")(x))
            x = max_pool_2x2(x)
        x = x.reshape(len(x), -1)
        for layer_index in (1, 2):
            x = nn.relu(nn.Dense(256, name=f"fc{layer_index}", **layer_options)(x))
        return nn.Dense(self.num_classes, name="fc3", **layer_options)(x)
