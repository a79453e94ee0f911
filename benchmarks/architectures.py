"""Well-known networks in Flax, to the published shapes: what structured pruning is measured on.

Numbers of parameters are those of the reference implementations: `PUBLISHED`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from jaxprune.nn.transformer import Block

norm = partial(nn.BatchNorm, use_running_average=True)
conv = partial(nn.Conv, use_bias=False)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; four times as many channels come out."""

    filters: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs."""
        residual = nn.relu(norm()(conv(self.filters, (1, 1))(x)))
        residual = nn.relu(norm()(conv(self.filters, (3, 3), self.stride, padding=1)(residual)))
        residual = norm()(conv(4 * self.filters, (1, 1))(residual))
        return nn.relu(residual + shortcut(x, residual, self.stride))


class Basic(nn.Module):
    """Two 3x3 convolutions."""

    filters: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs."""
        residual = nn.relu(norm()(conv(self.filters, (3, 3), self.stride, padding=1)(x)))
        residual = norm()(conv(self.filters, (3, 3), padding=1)(residual))
        return nn.relu(residual + shortcut(x, residual, self.stride))


def shortcut(x: jax.Array, y: jax.Array, stride: int) -> jax.Array:
    """The input, projected where shapes differ; called inside a compact module."""
    return x if x.shape == y.shape else norm()(conv(y.shape[-1], (1, 1), stride)(x))


class ResNet(nn.Module):
    """He, Zhang, Ren & Sun (2016), for ImageNet; strides sit at the 3x3 convolutions."""

    block: Callable[..., nn.Module]
    depths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs."""
        x = nn.relu(norm()(conv(64, (7, 7), 2, padding=3)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])  # type: ignore[arg-type]
        for stage, depth in enumerate(self.depths):
            for block_index in range(depth):
                x = self.block(64 * 2**stage, 2 if stage and not block_index else 1)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


class MobileNetV2(nn.Module):
    """Sandler, Howard, Zhu, Zhmoginov & Chen (2018), width 1."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs."""
        x = nn.relu6(norm()(conv(32, (3, 3), 2, padding=1)(x)))
        for expand, out_channels, depth, first_stride in MOBILE_STAGES:
            for block_index in range(depth):
                stride = first_stride if block_index == 0 else 1
                wide_channels = expand * x.shape[-1]
                residual = x
                if expand > 1:
                    residual = nn.relu6(norm()(conv(wide_channels, (1, 1))(residual)))
                residual = conv(
                    wide_channels, (3, 3), stride, padding=1, feature_group_count=wide_channels
                )(residual)
                residual = norm()(conv(out_channels, (1, 1))(nn.relu6(norm()(residual))))
                x = x + residual if x.shape == residual.shape else residual
        x = nn.relu6(norm()(conv(1280, (1, 1))(x)))
        return nn.Dense(1000)(x.mean((1, 2)))


MOBILE_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # expansion, channels, blocks, stride of the first


def blocks(x: jax.Array, depth: int, heads: int, causal: bool) -> jax.Array:
    for block_index in range(depth):
        x = Block(heads, causal, None, nn.initializers.lecun_normal(), name=f"block{block_index}")(
            x
        )
    return nn.LayerNorm()(x)


class ViT(nn.Module):
    """ViT-S/16 of Touvron et al. (2021): a class token, learnt positions."""

    width: int = 384

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs."""
        x = nn.Conv(self.width, (16, 16), (16, 16), name="embed")(x)
        x = x.reshape(len(x), -1, self.width)
        class_token = self.param("token", nn.initializers.normal(0.02), (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(class_token, (len(x), 1, self.width)), x], 1)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        return nn.Dense(1000, name="head")(blocks(x, 12, 6, causal=False)[:, 0])


class GPT(nn.Module):
    """Six layers of width 384; the embedding is the output layer too."""

    vocabulary: int = 5000
    width: int = 384
    context: int = 128

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Outputs."""
        embedding = nn.Embed(self.vocabulary, self.width, name="embed")
        position = self.param("position", nn.initializers.normal(0.02), (self.context, self.width))
        x = embedding(tokens) + position[None, : tokens.shape[1]]
        return embedding.attend(blocks(x, 6, 6, causal=True))


class Architecture(NamedTuple):
    """A network and the shape of its input, whose integers are tokens if `tokens`."""

    module: nn.Module
    shape: tuple[int, ...]
    tokens: bool = False


IMAGE = (1, 224, 224, 3)
ARCHITECTURES = {
    "ResNet-56": lambda: Architecture(jp.nn.resnet56(shortcut="projection"), (16, 32, 32, 3)),
    "ResNet-18": lambda: Architecture(ResNet(Basic, (2, 2, 2, 2)), IMAGE),
    "ResNet-50": lambda: Architecture(ResNet(Bottleneck, (3, 4, 6, 3)), IMAGE),
    "MobileNet-V2": lambda: Architecture(MobileNetV2(), IMAGE),
    "ViT-S/16": lambda: Architecture(ViT(), IMAGE),
    "GPT 6/384, tied": lambda: Architecture(GPT(), (1, 128), tokens=True),
}
PUBLISHED = {
    "ResNet-18": 11_689_512,
    "ResNet-50": 25_557_032,
    "MobileNet-V2": 3_504_872,
    "ViT-S/16": 22_050_664,
}  # torchvision's; the last timm's


def built(name: str) -> tuple[Callable[..., Any], Any, jax.Array]:
    """(function, variables, input): random numbers everywhere, so that no bias or statistic is 0 or 1."""
    module, shape, tokens = ARCHITECTURES[name]()
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 5000, shape) if tokens else rng.normal(size=shape).astype(np.float32)
    inputs = jnp.asarray(inputs)
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
    names = iter(jp.masks.paths(shapes))
    variables = jax.tree.map(lambda leaf: drawn(rng, next(names), leaf.shape), shapes)
    return module.apply, variables, inputs


def drawn(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> jax.Array:
    """Kernels keep the size of what they multiply; variances and scales stay about 1."""
    noise = rng.standard_normal(shape, np.float32)
    if name.endswith("kernel"):
        return jnp.asarray(noise * np.sqrt(2 / np.prod(shape[:-1])))
    if name.endswith(("var", "scale")):
        return jnp.asarray(1 + 0.2 * np.tanh(noise))
    return jnp.asarray(0.1 * noise)


def size(variables: Any) -> int:
    """Number of parameters, statistics left out."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
