"""A small autoregressive transformer.

Reference: A. Radford et al. Language Models are Unsupervised Multitask Learners. 2019.
"""

from typing import Any

import flax.linen as nn
import jax

from jaxprune.nn.transformer import Block, check_heads

NORMAL = nn.initializers.normal(0.02)


def gpt(
    *,
    vocab_size: int = 256,
    context: int = 256,
    width: int = 256,
    depth: int = 4,
    heads: int = 4,
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = NORMAL,
) -> nn.Module:
    """Returns a decoder with learnt positions and an untied output layer: 3,356,160 parameters.

    Args:
      vocab_size: number of tokens; 256 suits bytes.
      context: largest number of tokens in a sequence.
      width: number of channels of the representation, a multiple of `heads`.
      depth: number of blocks.
      heads: number of attention heads in each block.
      dtype: dtype of the computation; None: that of the parameters.
      kernel_init: initialiser of every kernel and embedding; biases start at zero.

    Returns:
      A module with layers embed, block1, ..., ln, head: `model.apply(variables, tokens,
      train=False)` maps integers [batch, length] to logits [batch, length, vocab_size]. The logits
      at a position depend on the tokens up to and including it.

    Raises:
      ValueError: `width` is not a multiple of `heads`; later, a sequence is longer than `context`.

    >>> tokens = jax.numpy.zeros((5, 16), int)
    >>> variables = jax.eval_shape(gpt(depth=1).init, jax.random.key(0), tokens)
    >>> sorted(variables["params"])
    ['block1', 'embed', 'head', 'ln', 'position']
    """
    check_heads("gpt", width, heads)
    return GPT(vocab_size, context, width, depth, heads, dtype, kernel_init)


class GPT(nn.Module):
    """Embedded tokens, causal transformer blocks, and logits for the next token."""

    vocab_size: int
    context: int
    width: int
    depth: int
    heads: int
    dtype: Any
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps tokens to logits; there is nothing that differs in training."""
        del train
        sequence_length = tokens.shape[1]
        if sequence_length > self.context:
            raise ValueError(f"gpt: {sequence_length} tokens exceed context={self.context}.")
        embedding = nn.Embed(
            self.vocab_size,
            self.width,
            dtype=self.dtype,
            embedding_init=self.kernel_init,
            name="embed",
        )
        position_embedding = self.param("position", self.kernel_init, (self.context, self.width))
        activations = embedding(tokens)
        activations = activations + position_embedding[None, :sequence_length].astype(
            activations.dtype
        )
        for block_index in range(1, self.depth + 1):
            activations = Block(
                self.heads, True, self.dtype, self.kernel_init, name=f"block{block_index}"
            )(activations)
        activations = nn.LayerNorm(dtype=self.dtype, name="ln")(activations)
        output_layer = nn.Dense(
            self.vocab_size,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="head",
        )
        return output_layer(activations)
