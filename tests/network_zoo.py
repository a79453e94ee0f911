"""Small networks whose axes are tied in all sorts of ways: by name (function, parameters, inputs)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp

IMAGE, ROWS, TOKENS = (2, 8, 8, 3), (2, 6), (2, 5)
norm = lambda **more: nn.BatchNorm(use_running_average=True, **more)


class Vgg(nn.Module):
    @nn.compact
    def __call__(self, x):
        for width in (8, 12):
            x = nn.relu(norm()(nn.Conv(width, (3, 3))(x)))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(3)(nn.relu(nn.Dense(10)(x.reshape(len(x), -1))))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        h = norm()(nn.Conv(8, (3, 3))(nn.relu(norm()(nn.Conv(6, (3, 3))(x)))))
        x = nn.relu(x + h)
        short = norm()(nn.Conv(12, (1, 1), (2, 2))(x))
        return nn.Dense(3)(nn.relu(short + nn.Conv(12, (3, 3), (2, 2))(x)).mean((1, 2)))


class PaddedShortcut(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        short = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (3, 3)))
        return nn.Dense(3)(nn.relu(nn.Conv(12, (3, 3), (2, 2))(x) + short).mean((1, 2)))


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3))(x)
        for _ in range(2):
            x = jnp.concatenate([x, nn.Conv(4, (3, 3))(nn.relu(norm()(x)))], -1)
        return nn.Dense(3)(x.mean((1, 2)))


class MobileNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(norm()(nn.Conv(8, (1, 1))(x)))
        h = nn.relu(norm()(nn.Conv(8, (3, 3), feature_group_count=8)(h)))
        squeezed = nn.sigmoid(nn.Dense(8)(nn.relu(nn.Dense(4)(h.mean((1, 2), keepdims=True)))))
        return nn.Dense(3)(nn.Conv(6, (1, 1))(h * squeezed).mean((1, 2)))


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Conv(8, (3, 3))(x))
        h = nn.relu(nn.Conv(12, (3, 3), feature_group_count=4)(h))
        return nn.Dense(3)(h.mean((1, 2)))


class Shuffle(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Conv(8, (1, 1))(x))
        h = h.reshape(*h.shape[:-1], 2, 4).swapaxes(-1, -2).reshape(h.shape)
        return nn.Dense(3)(nn.relu(nn.Conv(6, (1, 1))(h)).mean((1, 2)))


class PixelShuffle(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Conv(16, (3, 3))(x))
        b, n, m, c = h.shape
        h = (
            h.reshape(b, n, m, 2, 2, c // 4)
            .transpose(0, 1, 3, 2, 4, 5)
            .reshape(b, 2 * n, 2 * m, c // 4)
        )
        return nn.Dense(3)(nn.relu(nn.Conv(5, (3, 3))(h)).mean((1, 2)))


class ConvNext(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (2, 2), (2, 2))(x)
        h = nn.LayerNorm()(nn.Conv(8, (3, 3), feature_group_count=8)(x))
        h = nn.Dense(8)(nn.gelu(nn.Dense(16)(h)))
        return nn.Dense(3)(
            (x + self.param("gamma", nn.initializers.ones, (1, 1, 1, 8)) * h).mean((1, 2))
        )


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        a = nn.relu(nn.Conv(6, (3, 3))(x))
        b = nn.relu(nn.Conv(8, (3, 3), (2, 2))(a))
        up = nn.ConvTranspose(6, (2, 2), (2, 2))(b)
        h = nn.relu(nn.Conv(5, (3, 3))(jnp.concatenate([a, up], -1)))
        return nn.Conv(2, (1, 1))(jax.image.resize(h, (len(x), 4, 4, 5), "nearest"))


class GroupNorms(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.GroupNorm(num_groups=2)(nn.Conv(8, (3, 3))(x)))
        return nn.Dense(3)(nn.Conv(6, (3, 3))(h).mean((1, 2)))


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x.reshape(len(x), -1, 12))
        y = nn.Dense(16)(nn.gelu(nn.Dense(10)(nn.LayerNorm()(x).swapaxes(1, 2)))).swapaxes(1, 2)
        x = x + y
        return nn.Dense(3)((x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))).mean(1))


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, tied embedding, gated units, RMSNorm."""

    heads: int = 4
    groups: int = 2
    width: int = 8

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(11, 12)
        x = embed(tokens)
        h, b, n = nn.RMSNorm()(x), *tokens.shape
        split = lambda y, k: y.reshape(b, n, k, self.width)
        q = split(nn.Dense(self.heads * self.width, use_bias=False)(h), self.heads)
        k = split(nn.Dense(self.groups * self.width, use_bias=False)(h), self.groups)
        v = split(nn.Dense(self.groups * self.width, use_bias=False)(h), self.groups)
        q, k = rotary(q), rotary(k)
        k, v = (jnp.repeat(y, self.heads // self.groups, axis=2) for y in (k, v))
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5)
        found = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, n, -1)
        x = x + nn.Dense(12, use_bias=False)(found)
        h = nn.RMSNorm()(x)
        gated = nn.silu(nn.Dense(16, use_bias=False)(h)) * nn.Dense(16, use_bias=False)(h)
        return embed.attend(nn.RMSNorm()(x + nn.Dense(12, use_bias=False)(gated)))


def rotary(x):
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None, None] * 0.1 ** jnp.arange(half)[None, None]
    a, b = x[..., :half], x[..., half:]
    turned = [a * jnp.cos(angle)[None] - b * jnp.sin(angle)[None]]
    turned += [a * jnp.sin(angle)[None] + b * jnp.cos(angle)[None]]
    return jnp.concatenate(turned, -1)


class FusedQkv(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 12)(tokens)
        q, k, v = jnp.split(nn.Dense(24)(x).reshape(*tokens.shape, 2, 12), 3, axis=-1)
        weights = nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        x = x + nn.Dense(12)(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*tokens.shape, 8))
        return nn.Dense(3)(x)


class Lstm(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.RNN(nn.OptimizedLSTMCell(8))(nn.Embed(11, 6)(tokens))
        return nn.Dense(3)(nn.RNN(nn.GRUCell(6))(x))


class ScannedLayers(nn.Module):
    @nn.compact
    def __call__(self, x):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + nn.Dense(8)(nn.relu(nn.Dense(12)(x))), None

        layers = nn.scan(
            nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return nn.Dense(2)(layers()(nn.Dense(8)(x), None)[0])


class Tied(nn.Module):
    """One layer used twice."""

    @nn.compact
    def __call__(self, x):
        again = nn.Dense(8)
        return nn.Dense(2)(nn.relu(again(nn.relu(again(nn.Dense(8)(x))))))


class Experts(nn.Module):
    @nn.compact
    def __call__(self, x):
        draw = nn.initializers.normal(1.0)
        into = self.param("into", draw, (3, 6, 8))
        out = self.param("out", draw, (3, 8, 5))
        share = nn.softmax(nn.Dense(3)(x))
        h = nn.relu(jnp.einsum("bi,eih->beh", x, into))
        return nn.Dense(2)(jnp.einsum("beh,eho,be->bo", h, out, share))


class Windows(nn.Module):
    """Windows that are cut, rolled and merged, as in Swin."""

    @nn.compact
    def __call__(self, x):
        x = jnp.roll(nn.Dense(8)(x), (1, 1), (1, 2))
        b, n, m, c = x.shape
        x = x.reshape(b, n // 2, 2, m // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(12)(nn.LayerNorm()(x))))
        x = x.reshape(b, n // 2, m // 2, 4 * c)
        return nn.Dense(3)(nn.Dense(10, use_bias=False)(x).mean((1, 2)))


class Branches(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(8)(x))
        w = self.param("w", nn.initializers.normal(1.0), (8, 8))
        h = jax.lax.cond(x.sum() > 0, lambda h: h @ w, lambda h: h * 2.0, h)
        h = jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h), h)
        return nn.Dense(2)(h)


def drawn(tree, seed=1):
    """Random numbers in place of arrays, or of shapes: no bias or statistic is 0 or 1, variances are above 0.

    They are NumPy's: JAX would compile a program for each shape.
    """
    leaves, treedef = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)

    def leaf(name, w):
        if not jnp.issubdtype(w.dtype, jnp.floating):
            return jnp.zeros(w.shape, w.dtype)
        noise = rng.normal(0, 0.3, w.shape)
        positive = name.endswith(("var", "scale", "var_ema/average"))
        return jnp.asarray(0.5 + np.abs(noise) if positive else noise, w.dtype)

    pairs = zip(jp.masks.paths(tree), leaves, strict=True)
    return treedef.unflatten([leaf(*pair) for pair in pairs])


def linen(module, shape):
    whole = jax.random.randint if shape is TOKENS else None
    key = jax.random.key(0)
    x = whole(key, shape, 0, 11) if whole else jax.random.normal(key, shape)
    return module.apply, drawn(jax.eval_shape(module.init, key, x)), x


def pure_nnx(module, shape):
    graph, state = nnx.split(module)

    def apply(params, x):
        own = jax.tree.map(lambda v: v, state)
        nnx.replace_by_pure_dict(own, params)
        return nnx.merge(graph, own)(x)

    return apply, drawn(nnx.to_pure_dict(state)), jax.random.normal(jax.random.key(0), shape)


def nnx_network(shape):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.a, self.b = nnx.Linear(6, 10, rngs=rngs), nnx.Linear(10, 3, rngs=rngs)
            self.norm = nnx.BatchNorm(10, use_running_average=True, rngs=rngs)

        def __call__(self, x):
            return self.b(nnx.relu(self.norm(self.a(x))))

    return pure_nnx(Net(nnx.Rngs(0)), shape)


def nnx_vision(shape):
    """Convolutions, layers under a scan, attention."""

    class Layer(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.up, self.down = nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 8, rngs=rngs)

        def __call__(self, x):
            return x + self.down(nnx.gelu(self.up(self.norm(x))))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.inner, self.outer = (nnx.Conv(8, 8, (3, 3), rngs=rngs) for _ in range(2))
            self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.layers = nnx.vmap(Layer)(nnx.Rngs(0).split(3))
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            x = self.stem(x)
            x = x + self.outer(nnx.relu(self.norm(self.inner(x))))
            x = nnx.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1, 8)
            x = x + self.attention(x)
            step = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return self.head(step(x, self.layers).mean(1))

    return pure_nnx(Net(nnx.Rngs(0)), shape)


def haiku_network(shape):
    haiku = pytest.importorskip("haiku")

    def net(x, train=False):
        x = haiku.Conv2D(8, 3)(x)
        x = jax.nn.relu(haiku.BatchNorm(True, True, 0.9)(x, train))
        h = haiku.BatchNorm(True, True, 0.9)(haiku.Conv2D(8, 3)(x), train)
        x = haiku.AvgPool((2, 2, 1), (2, 2, 1), "VALID")(jax.nn.relu(x + h))
        x = haiku.Reshape((-1, 8))(x)
        draw = haiku.initializers.VarianceScaling()
        x = x + haiku.MultiHeadAttention(2, 4, model_size=8, w_init=draw)(x, x, x)
        return haiku.Linear(3)(haiku.RMSNorm(-1)(x).mean(1))

    both = haiku.without_apply_rng(haiku.transform_with_state(net))
    x = jax.random.normal(jax.random.key(0), shape)
    params, state = jax.eval_shape(lambda key, x: both.init(key, x, True), jax.random.key(1), x)
    apply = lambda v, x: both.apply(v["params"], v["state"], x)[0]
    return apply, drawn({"params": params, "state": state}), x


MODELS = {
    "vgg": (Vgg, IMAGE),
    "residual": (Residual, IMAGE),
    "padded shortcut": (PaddedShortcut, IMAGE),
    "densenet": (DenseNet, IMAGE),
    "mobilenet with squeeze-excite": (MobileNet, IMAGE),
    "grouped convolution": (Grouped, IMAGE),
    "channel shuffle": (Shuffle, IMAGE),
    "pixel shuffle": (PixelShuffle, IMAGE),
    "convnext": (ConvNext, IMAGE),
    "u-net": (UNet, IMAGE),
    "groupnorm": (GroupNorms, IMAGE),
    "mixer": (Mixer, IMAGE),
    "windows": (Windows, IMAGE),
    "llama": (Attention, TOKENS),
    "fused qkv": (FusedQkv, TOKENS),
    "lstm and gru": (Lstm, TOKENS),
    "scan and remat": (ScannedLayers, ROWS),
    "tied layers": (Tied, ROWS),
    "experts": (Experts, ROWS),
    "branches": (Branches, ROWS),
    "nnx": (nnx_network, ROWS),
    "nnx, scan and attention": (nnx_vision, IMAGE),
    "haiku": (haiku_network, IMAGE),
    "lenet-5": (jp.nn.lenet5_caffe, (2, 28, 28, 1)),
    "resnet-20, padded": (jp.nn.resnet20, IMAGE),
    "resnet-20, projections": (lambda: jp.nn.resnet20(shortcut="projection"), IMAGE),
    "resnet-56": (jp.nn.resnet56, IMAGE),
    "vit": (lambda: jp.nn.vit(patch=4, width=24, depth=2, heads=3), IMAGE),
    "gpt": (lambda: jp.nn.gpt(vocab_size=16, context=8, width=16, depth=2, heads=2), TOKENS),
}


def model(name):
    """(function, parameters, input) of a network; made once, with a tree of its own for everyone."""
    apply, params, x = _model(name)
    return apply, jax.tree.map(lambda leaf: leaf, params), x


@functools.cache
def _model(name):
    kind, shape = MODELS[name]
    whole = kind in (nnx_network, nnx_vision, haiku_network)
    return kind(shape) if whole else linen(kind(), shape)
