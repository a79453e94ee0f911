"""Kernels as frameworks store them: what `jaxprune.axes` must find in each, checked by hand.

Equinox and Haiku are development dependencies.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

KEY = jax.random.key(0)
Three = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Case(NamedTuple):
    """A function of one framework with a kernel in it.

    Attributes:
      apply: (params, x) -> anything.
      params: tree of arrays or shapes.
      x: input.
      expected: of each kernel, by path: the axes of inputs, of outputs and of layers.
    """

    apply: Callable[..., Any]
    params: Any
    x: Any
    expected: dict[str, Three]


def _x(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def linen(module: nn.Module, x: Any, expected: dict[str, Three]) -> Case:
    """A linen module."""
    params = jax.eval_shape(module.init, KEY, x)["params"]
    return Case(lambda params, x: module.apply({"params": params}, x), params, x, expected)


def of_nnx(module: Any, x: Any, expected: dict[str, Three], call: Any = None) -> Case:
    """An NNX module; its state, not a plain dict, holds the parameters."""
    graph, state = nnx.split(module)
    call_module = call or (lambda module, x: module(x))
    return Case(lambda state, x: call_module(nnx.merge(graph, state), x), state, x, expected)


def haiku(function: Callable[[Any], Any], x: Any, expected: dict[str, Three]) -> Case:
    """A Haiku function."""
    transformed = hk.without_apply_rng(hk.transform(function))
    return Case(transformed.apply, jax.eval_shape(transformed.init, KEY, x), x, expected)


def equinox(module: Any, x: Any, expected: dict[str, Three], call: Any = None) -> Case:
    """An Equinox module, its arrays apart from the rest."""
    arrays, static = eqx.partition(module, eqx.is_array)
    call_module = call or (lambda module, x: module(x))
    return Case(lambda arrays, x: call_module(eqx.combine(arrays, static), x), arrays, x, expected)


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        return x + nn.Dense(4)(nn.LayerNorm()(x)), None


class _Scanned(nn.Module):
    axis: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        layers = nn.scan(
            _Block,
            variable_axes={"params": self.axis},
            split_rngs={"params": True},
            length=3,
        )
        return layers()(x, None)[0]


class _Remat(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.remat(nn.Dense)(3)(x)


class _Tied(nn.Module):
    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embedding = nn.Embed(11, 4)
        return embedding.attend(nn.Dense(4)(embedding(tokens)))


class _NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + jnp.tanh(self.dense(self.norm(x)))


def _nnx_stack() -> Any:
    make_blocks = nnx.vmap(_NnxBlock, in_axes=(nnx.StateAxes({...: 0}),))
    return make_blocks(nnx.Rngs(0).split(3))


def _nnx_scan(module: Any, x: jax.Array) -> jax.Array:
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def layers(x: jax.Array, block: Any) -> jax.Array:
        return block(x)

    return layers(x, module)


def _experts(params: Any, x: jax.Array) -> jax.Array:
    group_sizes = jnp.array([3, 2, 3], jnp.int32)
    hidden = jax.nn.silu(jax.lax.ragged_dot(x, params["up"], group_sizes))
    return jax.lax.ragged_dot(hidden, params["down"], group_sizes)


def _equinox_scan(module: Any, x: jax.Array) -> jax.Array:
    arrays, static = eqx.partition(module, eqx.is_array)

    def layer(x, layer_arrays):
        return (jnp.tanh(eqx.combine(layer_arrays, static)(x)), None)

    return jax.lax.scan(layer, x, arrays)[0]


DENSE = ((0,), (1,), ())
TURNED = ((1,), (0,), ())
STACKED = ((1,), (2,), (0,))
CONVOLUTION = ((2,), (3,), ())
QKV = ((0,), (1, 2), ())
OUT = ((0, 1), (2,), ())
ATTENTION = {f"{name}/kernel": QKV for name in ("query", "key", "value")} | {"out/kernel": OUT}
RNGS = nnx.Rngs(0)

CASES: dict[str, Callable[[], Case]] = {
    "linen Dense": lambda: linen(nn.Dense(3), _x(2, 4), {"kernel": DENSE}),
    "linen DenseGeneral, to heads": lambda: linen(
        nn.DenseGeneral((2, 3)), _x(2, 4), {"kernel": QKV}
    ),
    "linen DenseGeneral, from heads": lambda: linen(
        nn.DenseGeneral(5, axis=(-2, -1)), _x(2, 4, 3), {"kernel": OUT}
    ),
    "linen Einsum": lambda: linen(
        nn.Einsum((4, 2, 3), "btd,dhk->bthk"), _x(2, 5, 4), {"kernel": QKV}
    ),
    "linen MultiHeadDotProductAttention": lambda: linen(
        nn.MultiHeadDotProductAttention(2), _x(2, 5, 8), ATTENTION
    ),
    "linen Conv": lambda: linen(nn.Conv(5, (3, 3)), _x(2, 9, 9, 4), {"kernel": CONVOLUTION}),
    "linen Conv, 1-D": lambda: linen(nn.Conv(5, (3,)), _x(2, 9, 4), {"kernel": ((1,), (2,), ())}),
    "linen Conv, 3-D": lambda: linen(
        nn.Conv(5, (3, 3, 3)), _x(2, 5, 5, 5, 4), {"kernel": ((3,), (4,), ())}
    ),
    "linen Conv, depthwise": lambda: linen(
        nn.Conv(4, (3, 3), feature_group_count=4), _x(2, 9, 9, 4), {"kernel": CONVOLUTION}
    ),
    "linen ConvTranspose": lambda: linen(
        nn.ConvTranspose(5, (3, 3), transpose_kernel=True),
        _x(2, 9, 9, 4),
        {"kernel": ((3,), (2,), ())},
    ),
    "linen LSTM": lambda: linen(
        nn.RNN(nn.LSTMCell(4)),
        _x(2, 5, 8),
        {f"cell/{side}{gate}/kernel": DENSE for side in "ih" for gate in "ifgo"},
    ),
    "linen WeightNorm": lambda: linen(
        nn.WeightNorm(nn.Dense(3)), _x(2, 4), {"layer_instance/kernel": DENSE}
    ),
    "linen remat": lambda: linen(_Remat(), _x(2, 4), {"CheckpointDense_0/kernel": DENSE}),
    "linen scan": lambda: linen(_Scanned(0), _x(2, 4), {"Scan_Block_0/Dense_0/kernel": STACKED}),
    "linen scan, stacked along axis 1": lambda: linen(
        _Scanned(1), _x(2, 4), {"Scan_Block_0/Dense_0/kernel": ((0,), (2,), (1,))}
    ),
    "linen Embed, tied": lambda: linen(
        _Tied(), _x(2, 5, dtype=jnp.int32), {"Embed_0/embedding": TURNED, "Dense_0/kernel": DENSE}
    ),
    "NNX Linear": lambda: of_nnx(nnx.Linear(4, 3, rngs=RNGS), _x(2, 4), {"kernel": DENSE}),
    "NNX LinearGeneral": lambda: of_nnx(
        nnx.LinearGeneral((2, 4), (3, 5), axis=(-2, -1), rngs=RNGS),
        _x(7, 2, 4),
        {"kernel": ((0, 1), (2, 3), ())},
    ),
    "NNX MultiHeadAttention": lambda: of_nnx(
        nnx.MultiHeadAttention(2, 8, decode=False, rngs=RNGS), _x(2, 5, 8), ATTENTION
    ),
    "NNX Conv": lambda: of_nnx(
        nnx.Conv(4, 6, (3, 3), rngs=RNGS), _x(2, 9, 9, 4), {"kernel": CONVOLUTION}
    ),
    "NNX LoRALinear": lambda: of_nnx(
        nnx.LoRALinear(8, 8, lora_rank=2, rngs=RNGS),
        _x(2, 8),
        {"kernel": DENSE, "lora/lora_a": DENSE, "lora/lora_b": DENSE},
    ),
    "NNX scan": lambda: of_nnx(_nnx_stack(), _x(2, 4), {"dense/kernel": STACKED}, call=_nnx_scan),
    "Haiku MLP": lambda: haiku(
        lambda x: hk.nets.MLP([5, 3])(x),
        _x(2, 4),
        {"mlp/~/linear_0/w": DENSE, "mlp/~/linear_1/w": DENSE},
    ),
    "Haiku MultiHeadAttention": lambda: haiku(
        lambda x: hk.MultiHeadAttention(2, 4, w_init=jnp.zeros)(x, x, x),
        _x(2, 5, 8),
        {f"multi_head_attention/{n}/w": DENSE for n in ("query", "key", "value", "linear")},
    ),
    "Haiku DepthwiseConv2D": lambda: haiku(
        lambda x: hk.DepthwiseConv2D(2, 3)(x),
        _x(2, 9, 9, 4),
        {"depthwise_conv2_d/w": CONVOLUTION},
    ),
    "Haiku layer_stack": lambda: haiku(
        lambda x: hk.experimental.layer_stack(3)(lambda h: jnp.tanh(hk.Linear(4)(h)))(x),
        _x(2, 4),
        {"__layer_stack_no_per_layer/linear/w": STACKED},
    ),
    "Equinox Linear, vmapped over examples": lambda: equinox(
        eqx.nn.Linear(4, 3, key=KEY),
        _x(5, 4),
        {"weight": TURNED},
        call=lambda module, x: jax.vmap(module)(x),
    ),
    "Equinox MultiheadAttention": lambda: equinox(
        eqx.nn.MultiheadAttention(2, 8, key=KEY),
        _x(5, 8),
        {f"{n}_proj/weight": TURNED for n in ("query", "key", "value", "output")},
        call=lambda module, x: module(x, x, x),
    ),
    "Equinox Conv2d": lambda: equinox(
        eqx.nn.Conv2d(4, 6, 3, key=KEY), _x(4, 9, 9), {"weight": TURNED}
    ),
    "Equinox GRUCell": lambda: equinox(
        eqx.nn.GRUCell(4, 6, key=KEY),
        _x(4),
        {"weight_ih": TURNED, "weight_hh": TURNED},
        call=lambda module, x: module(x, jnp.zeros(6)),
    ),
    "Equinox scan": lambda: equinox(
        eqx.filter_vmap(lambda key: eqx.nn.Linear(4, 4, key=key))(jax.random.split(KEY, 3)),
        _x(4),
        {"weight": ((2,), (1,), (0,))},
        call=_equinox_scan,
    ),
    "experts, batched einsum": lambda: Case(
        lambda p, x: jnp.einsum("ecd,edf->ecf", x, p["w"]),
        {"w": _x(3, 4, 5)},
        _x(3, 8, 4),
        {"w": STACKED},
    ),
    "experts, ragged_dot": lambda: Case(
        _experts,
        {"up": _x(3, 4, 6), "down": _x(3, 6, 4)},
        _x(8, 4),
        {"up": STACKED, "down": STACKED},
    ),
    "fused query, key and value, sliced": lambda: Case(
        lambda p, x: [x @ p["qkv"][:, 4 * i : 4 * i + 4] for i in range(3)],
        {"qkv": _x(4, 12)},
        _x(2, 4),
        {"qkv": DENSE},
    ),
    "ensemble under vmap, inputs shared": lambda: Case(
        jax.vmap(lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"], in_axes=(0, None)),
        {"a": _x(3, 4, 5), "b": _x(3, 5, 2)},
        _x(8, 4),
        {"a": STACKED, "b": STACKED},
    ),
}
