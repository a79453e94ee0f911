"""A small vision transformer.

References:
  A. Dosovitskiy et al. An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale.
  2021. L. Beyer, X. Zhai, A. Kolesnikov. Better plain ViT baselines for ImageNet-1k. 2022.
"""

from typing import Any

import flax.linen as nn
import jax

from jaxprune.nn.initializers import glorot_normal
from jaxprune.nn.transformer import Block, check_heads

GLOROT_NORMAL = glorot_normal()


def vit(
    *,
    num_classes: int = 10,
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = GLOROT_NORMAL,
) -> nn.Module:
    """Returns a vision transformer for small images: 2,693,194 parameters on 32x32x3.

    Position embeddings are learnt. The classifier reads the mean over patches, not a class token.

    Args:
      num_classes: number of outputs.
      patch: side of the square patches in pixels; it must divide the image's height and width.
      width: number of channels of the representation, a multiple of `heads`.
      depth: number of blocks.
      heads: number of attention heads in each block.
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel; biases start at zero.

    Returns:
      A module with layers embed, block1, ..., ln, head: `model.apply(variables, x)`
      gives logits.

    Raises:
      ValueError: `width` is not a multiple of `heads`; when applied, the image is not a whole number of
        patches.

    >>> images = jax.numpy.zeros((5, 32, 32, 3))
    >>> variables = jax.eval_shape(vit(depth=1).init, jax.random.key(0), images)
    >>> variables["params"]["position"].shape  # 8 x 8 patches
    (1, 64, 192)
    """
    check_heads("vit", width, heads)
    return ViT(num_classes, patch, width, depth, heads, dtype, kernel_init)


class ViT(nn.Module):
    """Patches as tokens, transformer blocks, and a linear classifier of their mean."""

    num_classes: int
    patch: int
    width: int
    depth: int
    heads: int
    dtype: Any
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images to logits; there is nothing that differs in training."""
        del train
        layer_options = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        batch, height, width, channels = x.shape
        patch_size = self.patch
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise ValueError(
                f"vit: images of {height}x{width} are not made of {patch_size}x{patch_size} patches."
            )
        x = x.reshape(
            batch, height // patch_size, patch_size, width // patch_size, patch_size, channels
        ).swapaxes(2, 3)
        x = nn.Dense(self.width, name="embed", **layer_options)(
            x.reshape(batch, -1, patch_size * patch_size * channels)
        )
        position_embedding = self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        x = x + position_embedding.astype(x.dtype)
        for block_index in range(1, self.depth + 1):
            x = Block(self.heads, False, self.dtype, self.kernel_init, name=f"block{block_index}")(
                x
            )
        x = nn.LayerNorm(dtype=self.dtype, name="ln")(x).mean(1)
        return nn.Dense(self.num_classes, name="head", **layer_options)(x)
