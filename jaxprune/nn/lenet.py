"""LeNets for 28x28 images: the fully connected LeNet-300-100, and Caffe's version of LeNet-5.

References:
  Y. LeCun, L. Bottou, Y. Bengio, P. Haffner. Gradient-Based Learning Applied to Document
  Recognition. 1998. J. Frankle, M. Carbin. The Lottery Ticket Hypothesis: Finding Sparse, Trainable
  Neural Networks. 2019.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxprune.nn.activation import KWinners
from jaxprune.nn.canonical_conv import conv_for_backend
from jaxprune.nn.initializers import glorot_normal
from jaxprune.nn.pooling import max_pool_2x2

GLOROT_NORMAL = glorot_normal()


def lenet_300_100(
    *,
    num_classes: int = 10,
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = GLOROT_NORMAL,
    activation_sparsity: float = 0.0,
) -> nn.Module:
    """Returns LeNet-300-100: 784-300-100-10 with ReLU, 266,610 parameters on MNIST.

    Args:
      num_classes: number of outputs.
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel; biases start at zero.
      activation_sparsity: fraction of each hidden layer's units that a `KWinners` layer sets to zero
        after the ReLU, for each example by itself; 0: there is no such layer.

    Returns:
      A module with layers fc1, fc2 and fc3: `model.apply(variables, x)` gives logits.

    >>> images = jax.numpy.zeros((5, 28, 28, 1))
    >>> variables = jax.eval_shape(lenet_300_100().init, jax.random.key(0), images)
    >>> {name: layer["kernel"].shape for name, layer in variables["params"].items()}
    {'fc1': (784, 300), 'fc2': (300, 100), 'fc3': (100, 10)}
    """
    return MLP((300, 100), num_classes, dtype, kernel_init, activation_sparsity)


def lenet5_caffe(
    *,
    num_classes: int = 10,
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = GLOROT_NORMAL,
    batch_norm: bool = False,
) -> nn.Module:
    """Returns LeNet-5 as in Caffe: 20 and 50 filters of 5x5, pooling, 500-10: 431,080 parameters on MNIST.

    As in the pruning literature there is a ReLU after each convolution; Caffe's own has one after
    fc1 only.

    Args:
      num_classes: number of outputs.
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel; biases start at zero.
      batch_norm: true: a BatchNorm (norm1, norm2) follows each convolution, as network slimming needs.

    Returns:
      A module with layers conv1, conv2, fc1 and fc2: `model.apply(variables, x)` gives
      logits.

    >>> images = jax.numpy.zeros((5, 28, 28, 1))
    >>> variables = jax.eval_shape(lenet5_caffe().init, jax.random.key(0), images)
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables))
    431080
    """
    return LeNet5((20, 50), 500, num_classes, dtype, kernel_init, batch_norm)


class MLP(nn.Module):
    """Fully connected layers fc1, fc2, ... with ReLU between them."""

    hidden: tuple[int, ...]
    num_classes: int
    dtype: Any
    kernel_init: nn.initializers.Initializer
    activation_sparsity: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps inputs of any shape to logits; there is nothing that differs in training."""
        del train
        x = x.reshape(len(x), -1)
        dense_layer = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        for layer_index, width in enumerate(self.hidden, 1):
            x = nn.relu(dense_layer(width, name=f"fc{layer_index}")(x))
            if self.activation_sparsity:
                x = KWinners(sparsity=self.activation_sparsity, name=f"winners{layer_index}")(x)
        return dense_layer(self.num_classes, name=f"fc{len(self.hidden) + 1}")(x)


class LeNet5(nn.Module):
    """Two convolutions with pooling, then two fully connected layers."""

    filters: tuple[int, int]
    hidden: int
    num_classes: int
    dtype: Any
    kernel_init: nn.initializers.Initializer
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images to logits; in training BatchNorm, if there is one, takes the batch's statistics."""
        layer_options = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        convolution = partial(
            nn.Conv,
            kernel_size=(5, 5),
            padding="VALID",
            conv_general_dilated=conv_for_backend,
            **layer_options,
        )
        for layer_index, filters in enumerate(self.filters, 1):
            x = convolution(filters, name=f"conv{layer_index}")(x)
            if self.batch_norm:
                x = nn.BatchNorm(not train, dtype=self.dtype, name=f"norm{layer_index}")(x)
            x = max_pool_2x2(nn.relu(x))
        x = nn.relu(nn.Dense(self.hidden, name="fc1", **layer_options)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes, name="fc2", **layer_options)(x)
