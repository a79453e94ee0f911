"""The fully connected network on which sparse evolutionary training (SET) was shown.

Reference: D. Mocanu, E. Mocanu, P. Stone, P. Nguyen, M. Gibescu, A. Liotta. Scalable Training of Artificial
Neural Networks with Adaptive Sparse Connectivity inspired by Network Science. 2018.
"""

from typing import Any

import flax.linen as nn
import jax

from jaxprune.nn.initializers import glorot_uniform
from jaxprune.nn.srelu import SReLU

GLOROT_UNIFORM = glorot_uniform()


def set_mlp(
    *,
    hidden: tuple[int, ...] = (1000, 1000, 1000),
    num_classes: int = 10,
    dropout_rate: float = 0.3,
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = GLOROT_UNIFORM,
) -> nn.Module:
    """Returns the network of SET: three hidden layers with SReLU and dropout, 2,809,010 parameters on MNIST.

    Args:
      hidden: widths of the hidden layers.
      num_classes: number of outputs.
      dropout_rate: fraction of each hidden layer's units that is set to zero in training, in [0, 1).
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel; biases start at zero.

    Returns:
      A module with layers fc1, srelu1, fc2, ...: `model.apply(variables, x)` gives logits. In training it
      needs a key: `model.apply(variables, x, train=True, rngs={"dropout": key})`.

    Raises:
      ValueError: if `dropout_rate` is not in its range.

    >>> images = jax.numpy.zeros((5, 28, 28, 1))
    >>> variables = jax.eval_shape(set_mlp(hidden=(40,)).init, jax.random.key(0), images)
    >>> sorted(variables["params"]), variables["params"]["fc1"]["kernel"].shape
    (['fc1', 'fc2', 'srelu1'], (784, 40))
    """
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"set_mlp(dropout_rate={dropout_rate}): a fraction in [0, 1) is needed.")
    return SetMLP(hidden, num_classes, dropout_rate, dtype, kernel_init)


class SetMLP(nn.Module):
    """Fully connected layers fc1, fc2, ... with SReLU and dropout between them."""

    hidden: tuple[int, ...]
    num_classes: int
    dropout_rate: float
    dtype: Any
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps inputs of any shape to logits; in training units are dropped."""
        layer_options = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        x = x.reshape(len(x), -1)
        for layer_index, width in enumerate(self.hidden, 1):
            x = nn.Dense(width, name=f"fc{layer_index}", **layer_options)(x)
            x = SReLU(dtype=self.dtype, name=f"srelu{layer_index}")(x)
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name=f"fc{len(self.hidden) + 1}", **layer_options)(x)
