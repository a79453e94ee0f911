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
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init)
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        y = norm(name="ln1")(x)
        heads = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (dense(width, name=name)(y).reshape(heads) for name in ("query", "key", "value"))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + dense(width, name="out")(y.reshape(x.shape))
        y = nn.gelu(dense(4 * width, name="fc1")(norm(name="ln2")(x)))
        return x + dense(width, name="fc2")(y)


def check_heads(model: str, width: int, heads: int) -> None:
    """Refuses a width that its heads cannot share equally."""
    if width % heads:
        raise ValueError(f"{model}: width={width} is not a multiple of heads={heads}.")
