r"""One decoder for models like LLaMA, Qwen2 and Qwen3: a pure function on a plain tree of arrays.

Each layer adds attention and a gated feed-forward network to the residual stream $x$ [batch, length, width]:

$$x \leftarrow x + A(\mathrm{rms}(x))$$
$$x \leftarrow x + D\,(\mathrm{silu}(G\,y) \odot U\,y), \quad y = \mathrm{rms}(x).$$

All kernels are [inputs, outputs]. The tree is

    {"embedding": [vocabulary, width], "norm": [width], "head": [width, vocabulary],
     "layers": [{"attention_norm", "query", "key", "value", "output",
                 "feed_forward_norm", "gate", "up", "down"}]}

without "head" if it is tied, and in layers with the biases and norms that the configuration asks for.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Config", "decoder", "random_params", "shapes"]


def __dir__() -> list[str]:
    return sorted(__all__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    r"""Sizes and options of a decoder.

    Attributes:
      vocabulary: number of tokens.
      width: number of channels of the residual stream.
      hidden: number of channels of the feed-forward network.
      layers: number of layers.
      heads: number of heads of queries.
      kv_heads: number of heads of keys and values; each serves heads / kv_heads query heads that follow one
        another.
      head_dim: number of channels of a head, even.
      norm_epsilon: added to the mean square in RMSNorm.
      rotary_base: $b$; pair $i$ of a head at position $t$ is rotated by $t\,b^{-2i/\mathrm{head\_dim}}$
        radians.
      rotary_factors: divisor of the angle of each pair, for longer contexts; `None`: 1.
      max_length: tokens that the model was trained for at once; a note, nothing depends on it.
      tied: whether the embedding is the head too.
      attention_bias: whether queries, keys and values have biases (Qwen2).
      head_norm: whether queries and keys are normalised in each head (Qwen3).
    """

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_epsilon: float = 1e-5
    rotary_base: float = 10_000.0
    rotary_factors: tuple[float, ...] | None = None
    max_length: int | None = None
    tied: bool = True
    attention_bias: bool = False
    head_norm: bool = False

    def __post_init__(self) -> None:
        """Refuses what no decoder can have."""
        for name in ("vocabulary", "width", "hidden", "layers", "heads", "kv_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"Config({name}={getattr(self, name)}): at least 1 is needed.")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"Config: {self.heads} heads of queries cannot share {self.kv_heads} of keys evenly."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"Config(head_dim={self.head_dim}): rotary positions need an even one."
            )
        pairs = self.head_dim // 2
        if self.rotary_factors is not None and len(self.rotary_factors) != pairs:
            raise ValueError(
                f"Config: {len(self.rotary_factors)} rotary_factors for {pairs} pairs of a head."
            )


def decoder(config: Config, *, dtype: Any = jnp.float32) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns apply(params, tokens) -> logits.

    Args:
      config: of the model.
      dtype: of activations, and of kernels where they are multiplied; norms, softmax and rotations are
        computed in float32.

    Returns:
      A pure function of the tree above and int tokens [batch, length], to float32 logits [batch, length,
      vocabulary]; those at a position see tokens up to it. A token outside the vocabulary gives NaN in all of
      its sequence.

    References:
      Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023); Su et al., "RoFormer"
      (2021), with the two halves of a head as pairs; Ainslie et al., "GQA" (2023); Shazeer, "GLU Variants
      Improve Transformer" (2020).

    >>> config = Config(vocabulary=5, width=4, hidden=8, layers=1, heads=2, kv_heads=1, head_dim=2)
    >>> jax.eval_shape(decoder(config), shapes(config), jnp.array([[1, 2, 3]])).shape
    (1, 3, 5)
    """

    def apply(params: Any, tokens: jax.Array) -> jax.Array:
        rows = jnp.asarray(params["embedding"]).at[tokens]
        residual = rows.get(mode="fill", wrap_negative_indices=False).astype(dtype)
        rotation = _rotation(config, tokens.shape[1])
        for layer in params["layers"]:
            residual = residual + _attention(
                config, layer, _rms_norm(config, residual, layer["attention_norm"]), rotation
            )
            residual = residual + _feed_forward(
                layer, _rms_norm(config, residual, layer["feed_forward_norm"])
            )
        residual = _rms_norm(config, residual, params["norm"])
        head = params["embedding"].T if config.tied else params["head"]
        return _product(residual, head).astype(jnp.float32)

    return apply


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel.astype(x.dtype)


def _last_axis(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Returns a vector in a shape that broadcasts over all but the last axis of x."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _rms_norm(config: Config, x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns activations divided by their root mean square, times a scale; computed in float32."""
    wide_x = x.astype(jnp.float32)
    inverse_rms = jax.lax.rsqrt(jnp.mean(wide_x**2, axis=-1, keepdims=True) + config.norm_epsilon)
    return (wide_x * inverse_rms * _last_axis(scale.astype(jnp.float32), x)).astype(x.dtype)


def _rotation(config: Config, length: int) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines [length, 1, head_dim / 2] of the angles by which pairs are rotated."""
    pair_count = config.head_dim // 2
    factors = config.rotary_factors or (1.0,) * pair_count
    speeds = [
        config.rotary_base ** (-pair / pair_count) / factors[pair] for pair in range(pair_count)
    ]
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * jnp.array(speeds, jnp.float32)[None]
    return jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]


def _rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates channel i of the first half with channel i of the second; x is [batch, time, head, channel]."""
    cosine, sine = (component[None] for component in rotation)
    first_half, second_half = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated_halves = [
        first_half * cosine - second_half * sine,
        second_half * cosine + first_half * sine,
    ]
    return jnp.concatenate(rotated_halves, axis=-1).astype(x.dtype)


def _heads(config: Config, layer: Any, name: str, x: jax.Array) -> jax.Array:
    """Returns queries, keys or values [batch, length, heads, head_dim]."""
    projected = _product(x, layer[name])
    if config.attention_bias:
        projected = projected + _last_axis(layer[f"{name}_bias"].astype(x.dtype), projected)
    return projected.reshape(*x.shape[:2], -1, config.head_dim)


def _attention(
    config: Config, layer: Any, x: jax.Array, rotation: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Returns causal attention of normalised activations [batch, length, width]."""
    batch, length, _ = x.shape
    queries = _heads(config, layer, "query", x)
    keys = _heads(config, layer, "key", x)
    values = _heads(config, layer, "value", x)
    if config.head_norm:
        queries = _rms_norm(config, queries, layer["query_norm"])
        keys = _rms_norm(config, keys, layer["key_norm"])
    queries_per_key = config.heads // config.kv_heads
    queries = _rotate(queries, rotation).reshape(
        batch, length, -1, queries_per_key, config.head_dim
    )
    keys = _rotate(keys, rotation)
    # Axes: batch, time of the query, source time, kv head, group member, channel.
    scores = jnp.einsum("btkgd,bskd->bkgts", queries, keys, preferred_element_type=jnp.float32)
    causal = jnp.tril(jnp.ones((length, length), bool))[None, None, None]
    scores = jnp.where(causal, scores / math.sqrt(config.head_dim), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
    mixed_values = jnp.einsum("bkgts,bskd->btkgd", weights, values)
    return _product(mixed_values.reshape(batch, length, -1), layer["output"])


def _feed_forward(layer: Any, x: jax.Array) -> jax.Array:
    """Returns the gated feed-forward network of normalised activations."""
    gated = jax.nn.silu(_product(x, layer["gate"])) * _product(x, layer["up"])
    return _product(gated, layer["down"])


def shapes(config: Config, dtype: Any = jnp.float32) -> Any:
    """Returns the tree of parameters with a `jax.ShapeDtypeStruct` at each leaf.

    Args:
      config: of the model.
      dtype: of the parameters.

    >>> config = Config(vocabulary=5, width=4, hidden=8, layers=1, heads=2, kv_heads=1, head_dim=2)
    >>> shapes(config)["layers"][0]["key"].shape  # [width, kv_heads * head_dim]
    (4, 2)
    """
    queries = config.heads * config.head_dim
    keys = config.kv_heads * config.head_dim
    layer = {
        "attention_norm": (config.width,),
        "query": (config.width, queries),
        "key": (config.width, keys),
        "value": (config.width, keys),
        "output": (queries, config.width),
        "feed_forward_norm": (config.width,),
        "gate": (config.width, config.hidden),
        "up": (config.width, config.hidden),
        "down": (config.hidden, config.width),
    }
    if config.attention_bias:
        layer |= {"query_bias": (queries,), "key_bias": (keys,), "value_bias": (keys,)}
    if config.head_norm:
        layer |= {"query_norm": (config.head_dim,), "key_norm": (config.head_dim,)}
    tree: dict[str, Any] = {
        "embedding": (config.vocabulary, config.width),
        "layers": [dict(layer) for _ in range(config.layers)],
        "norm": (config.width,),
    }
    if not config.tied:
        tree["head"] = (config.width, config.vocabulary)
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, dtype),
        tree,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def random_params(config: Config, key: jax.Array, dtype: Any = jnp.float32) -> Any:
    """Returns random parameters: kernels normal with variance 1 / inputs, scales 1, biases 0.

    The variance of the embedding is 1 / width, so that a tied head gives logits of order 1.

    Args:
      config: of the model.
      key: PRNG key.
      dtype: of the parameters.

    Returns:
      The tree of `shapes`, with arrays.
    """
    leaves, tree = jax.tree.flatten_with_path(shapes(config, dtype))
    keys = jax.random.split(key, len(leaves))
    drawn_leaves = []
    for (path, leaf), leaf_key in zip(leaves, keys, strict=True):
        if leaf.ndim == 1:
            drawn_leaves.append(jnp.full(leaf.shape, "bias" not in path[-1].key, dtype))
        else:
            inputs = config.width if path[-1].key == "embedding" else leaf.shape[0]
            drawn_leaves.append(jax.random.normal(leaf_key, leaf.shape, dtype) / math.sqrt(inputs))
    return tree.unflatten(drawn_leaves)
