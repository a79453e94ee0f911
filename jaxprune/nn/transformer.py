"""The pre-norm transformer block that `vit` and `gpt` share.

References:
  A. Vaswani et al. Attention Is All You Need. 2017.
  R. Xiong et al. On Layer Normalization in the Transformer Architecture. 2020.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax


class Block(nn.Module):
    """Self-attention, then a two-layer network with GELU: both take normalised input and add to it.

    Every projection is a plain matrix, so that a pruning pattern sees inputs in rows and outputs in
    columns.
    """

    heads: int
    causal: bool
    dtype: Any
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, tokens, width] to the same shape."""
        batch, tokens, width = x.shape
        dense_layer = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        layer_norm = partial(nn.LayerNorm, dtype=self.dtype)
        branch = layer_norm(name="ln1")(x)
        head_shape = (batch, tokens, self.heads, width // self.heads)
        queries, keys, values = (
            dense_layer(width, name=name)(branch).reshape(head_shape)
            for name in ("query", "key", "value")
        )
        branch = jax.nn.dot_product_attention(queries, keys, values, is_causal=self.causal)
        x = x + dense_layer(width, name="out")(branch.reshape(x.shape))
        branch = nn.gelu(dense_layer(4 * width, name="fc1")(layer_norm(name="ln2")(x)))
        return x + dense_layer(width, name="fc2")(branch)


def check_heads(model: str, width: int, heads: int) -> None:
    """Raises `ValueError` for a width that its heads cannot share equally."""
    if heads < 1 or width % heads:
        raise ValueError(f"{model}: width={width} is not a multiple of heads={heads}.")
