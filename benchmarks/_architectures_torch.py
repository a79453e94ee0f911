"""The networks of `benchmarks.architectures` in PyTorch, to the same shapes; read by `_torch_side`."""
# pyright: reportMissingImports=false

from functools import partial

import torch
from torch import nn
from torch.nn import functional

MOBILE_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # as in `architectures`, which this interpreter may not be able to import


def conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    layer = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels))


class Residual(nn.Module):
    """A body whose output is added to the input, projected where shapes differ."""

    def __init__(self, body: nn.Module, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.body = body
        is_same_shape = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity() if is_same_shape else conv(in_channels, out_channels, 1, stride)
        )

    def forward(self, x):
        """Outputs."""
        return functional.relu(self.body(x) + self.shortcut(x))


def basic(in_channels: int, filters: int, stride: int) -> Residual:
    body = nn.Sequential(
        conv(in_channels, filters, 3, stride), nn.ReLU(), conv(filters, filters, 3)
    )
    return Residual(body, in_channels, filters, stride)


def bottleneck(in_channels: int, filters: int, stride: int) -> Residual:
    body = nn.Sequential(
        conv(in_channels, filters, 1),
        nn.ReLU(),
        conv(filters, filters, 3, stride),
        nn.ReLU(),
        conv(filters, 4 * filters, 1),
    )
    return Residual(body, in_channels, 4 * filters, stride)


def resnet(block, depths: tuple[int, ...], stem: list[nn.Module], width: int, classes: int):
    layers = stem
    in_channels = width
    for stage, depth in enumerate(depths):
        for block_index in range(depth):
            filters = width * 2**stage
            layers.append(block(in_channels, filters, 2 if stage and not block_index else 1))
            in_channels = filters * (4 if block is bottleneck else 1)
    pooling = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, pooling, nn.Flatten(), nn.Linear(in_channels, classes))


def imagenet_stem() -> list[nn.Module]:
    return [conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]


class Inverted(nn.Module):
    """Expansion, depthwise convolution, projection; added to the input where shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand: int):
        super().__init__()
        wide_channels = expand * in_channels
        expansion = [conv(in_channels, wide_channels, 1), nn.ReLU6()] if expand > 1 else []
        depthwise = conv(wide_channels, wide_channels, 3, stride, groups=wide_channels)
        self.body = nn.Sequential(
            *expansion, depthwise, nn.ReLU6(), conv(wide_channels, out_channels, 1)
        )
        self.added = in_channels == out_channels and stride == 1

    def forward(self, x):
        """Outputs."""
        return x + self.body(x) if self.added else self.body(x)


def mobilenet_v2() -> nn.Module:
    layers = [conv(3, 32, 3, 2), nn.ReLU6()]
    in_channels = 32
    for expand, out_channels, depth, first_stride in MOBILE_STAGES:
        for block_index in range(depth):
            layers.append(
                Inverted(in_channels, out_channels, first_stride if block_index == 0 else 1, expand)
            )
            in_channels = out_channels
    layers += [conv(in_channels, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, 1000))


class Block(nn.Module):
    """Pre-norm attention and a two-layer network with GELU."""

    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.scale = (width // heads) ** -0.5
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        """Outputs."""
        attended = self.ln1(x)
        (batch, tokens) = x.shape[:2]

        def split(projected):
            return projected.reshape(batch, tokens, self.heads, -1).transpose(1, 2)

        query = split(self.query(attended))
        key = split(self.key(attended))
        value = split(self.value(attended))
        attended = functional.scaled_dot_product_attention(
            query, key, value, is_causal=self.causal, scale=self.scale
        )
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, -1))
        return x + self.fc2(functional.gelu(self.fc1(self.ln2(x)), approximate="tanh"))


class ViT(nn.Module):
    """ViT-S/16."""

    def __init__(self, width: int = 384):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, 197, width))
        self.blocks = nn.Sequential(*[Block(width, 6, False) for _ in range(12)])
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, x):
        """Outputs."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.ln(self.blocks(x))[:, 0])


class GPT(nn.Module):
    """Six layers of width 384; the embedding is the output layer too."""

    def __init__(self, vocabulary: int = 5000, width: int = 384, context: int = 128):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, context, width))
        self.blocks = nn.Sequential(*[Block(width, 6, True) for _ in range(6)])
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        """Outputs."""
        x = self.embed(tokens) + self.position[:, : tokens.shape[1]]
        return self.head(self.ln(self.blocks(x)))


ARCHITECTURES = {
    "ResNet-56": lambda: resnet(basic, (9, 9, 9), [conv(3, 16, 3), nn.ReLU()], 16, 10),
    "ResNet-18": lambda: resnet(basic, (2, 2, 2, 2), imagenet_stem(), 64, 1000),
    "ResNet-50": lambda: resnet(bottleneck, (3, 4, 6, 3), imagenet_stem(), 64, 1000),
    "MobileNet-V2": mobilenet_v2,
    "ViT-S/16": ViT,
    "GPT 6/384, tied": GPT,
}
image = partial(torch.randn, 1, 3, 224, 224)
INPUTS = {
    **dict.fromkeys(ARCHITECTURES, image),
    "ResNet-56": partial(torch.randn, 16, 3, 32, 32),
    "GPT 6/384, tied": partial(torch.randint, 5000, (1, 128)),
}


def drawn(module: nn.Module) -> nn.Module:
    """Random statistics, scales and biases, as in `architectures.drawn`; the module in evaluation mode."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if value.ndim == 1 and value.is_floating_point():
            noise = torch.randn_like(value)
            is_scale = name.endswith(("var", "weight"))  # vectors of weights are scales
            value.data = 1 + 0.2 * torch.tanh(noise) if is_scale else 0.1 * noise
    return module.eval()
