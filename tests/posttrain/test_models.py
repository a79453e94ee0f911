"""The same driver on models of several libraries, unedited: kernels, exact counts, 2:4 along inputs."""

import functools
import re

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.posttrain import solvers

HALF = jp.patterns.groups(4)
WANDA = solvers.by_criterion(jp.criteria.wanda)


class EinsumBlock(nnx.Module):
    """Attention with kernels `[d, n, h]` and `[n, h, d]`, as in bonsai and tunix."""

    def __init__(self, rngs):
        for name in "qkv":
            setattr(self, name, nnx.Einsum("btd,dnh->btnh", (16, 2, 8), rngs=rngs))
        self.o = nnx.Einsum("btnh,nhd->btd", (2, 8, 16), rngs=rngs)
        self.up = nnx.Linear(16, 32, rngs=rngs)
        self.down = nnx.Linear(32, 16, use_bias=False, rngs=rngs)

    def __call__(self, x):
        q, k, v = (part(x) for part in (self.q, self.k, self.v))
        weights = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, k))
        x = x + self.o(jnp.einsum("bnts,bsnh->btnh", weights, v))
        return x + self.down(jax.nn.silu(self.up(x)))


def nnx_einsums():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = EinsumBlock(rngs), EinsumBlock(rngs)

        def __call__(self, x):
            return self.second(self.first(x))

    graph, params = nnx.split(Model(nnx.Rngs(0)))
    names = [
        f"{b}/{k}/kernel" for b in ("first", "second") for k in ("q", "k", "v", "o", "up", "down")
    ]
    return lambda p, x: nnx.merge(graph, p)(x), params, names


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, h)
        return x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x)))), None


def linen_scanned():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                nn.remat(Layer),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )
            return layers()(x, None)[0]

    model = Model()
    params = model.init(jax.random.key(0), jnp.ones((2, 6, 16)))["params"]
    attention = [f"MultiHeadDotProductAttention_0/{k}" for k in ("query", "key", "value", "out")]
    parts = ["Dense_0", "Dense_1", *attention]
    names = [f"ScanCheckpointLayer_0/{part}/kernel[{i}]" for part in parts for i in range(3)]
    return lambda p, x: model.apply({"params": p}, x), params, names


def haiku_model():
    def network(x):
        for _ in range(2):
            x = x + hk.MultiHeadAttention(
                2, 8, model_size=16, w_init=hk.initializers.VarianceScaling()
            )(x, x, x)
            x = x + hk.Linear(16)(jax.nn.relu(hk.Linear(32)(x)))
        return x

    model = hk.without_apply_rng(hk.transform(network))
    params = model.init(jax.random.key(0), jnp.ones((2, 6, 16)))
    names = [name for name in jp.masks.paths(params) if name.endswith("w")]
    return model.apply, params, names


class StackedLayer(nn.Module):
    """Attention and a gated unit with `DenseGeneral` kernels, in bfloat16, as in MaxText."""

    @nn.compact
    def __call__(self, x, _):
        dense = functools.partial(nn.DenseGeneral, use_bias=False, dtype=jnp.bfloat16)
        h = nn.RMSNorm(dtype=jnp.bfloat16)(x)
        q, k, v = (dense((2, 8), name=name)(h) for name in ("query", "key", "value"))
        weights = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, k))
        mixed = jnp.einsum("bnts,bsnh->btnh", weights, v)
        x = x + dense(16, axis=(-2, -1), name="out")(mixed)
        h = nn.RMSNorm(dtype=jnp.bfloat16)(x)
        gated = jax.nn.silu(dense(32, name="wi_0")(h)) * dense(32, name="wi_1")(h)
        return x + dense(16, name="wo")(gated), None


def maxtext_stack():
    """Layers stacked along axis 1 of each kernel: `[d, layers, heads, head_dim]`, rematerialised."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(
                nn.remat(StackedLayer),
                variable_axes={"params": 1},
                split_rngs={"params": True},
                length=2,
            )
            return layers(name="layers")(x, None)[0]

    model = Model()
    params = model.init(jax.random.key(0), jnp.ones((2, 6, 16)))["params"]
    assert params["layers"]["query"]["kernel"].shape == (16, 2, 2, 8)
    assert params["layers"]["out"]["kernel"].shape == (2, 2, 8, 16)
    parts = ("query", "key", "value", "out", "wi_0", "wi_1", "wo")
    names = [f"layers/{part}/kernel[:, {i}]" for part in parts for i in range(2)]
    return lambda p, x: model.apply({"params": p}, x), params, names


class Speech(nn.Module):
    """Convolutions over a spectrogram, an encoder, and a decoder that attends to it, as in Whisper."""

    @nn.compact
    def __call__(self, batch):
        attention = functools.partial(nn.MultiHeadDotProductAttention, num_heads=2)
        x = nn.gelu(nn.Conv(16, (3,), name="conv1")(batch["spectrogram"]))
        x = nn.gelu(nn.Conv(16, (3,), strides=2, name="conv2")(x))
        h = nn.LayerNorm()(x)
        x = x + attention(name="encoder_attention")(h, h)
        x = x + nn.Dense(16, name="encoder_down")(nn.gelu(nn.Dense(32, name="encoder_up")(x)))
        table = nn.Embed(12, 16, name="table")
        y = table(batch["tokens"])
        causal = nn.make_causal_mask(batch["tokens"])
        for i in range(2):
            h = nn.LayerNorm()(y)
            y = y + attention(name=f"self_{i}")(h, h, mask=causal)
            y = y + attention(name=f"cross_{i}")(nn.LayerNorm()(y), x)
            y = y + nn.Dense(16, name=f"down_{i}")(nn.gelu(nn.Dense(32, name=f"up_{i}")(y)))
        return table.attend(y)


def speech():
    model = Speech()
    data = [
        {"spectrogram": x[..., :8], "tokens": np.arange(20).reshape(4, 5) % 12} for x in batches()
    ]
    params = model.init(jax.random.key(0), data[0])["params"]
    attentions = [
        "encoder_attention",
        *(f"{kind}_{i}" for kind in ("self", "cross") for i in (0, 1)),
    ]
    parts = ["conv1", "conv2", "encoder_up", "encoder_down", "up_0", "down_0", "up_1", "down_1"]
    parts += [f"{name}/{part}" for name in attentions for part in ("query", "key", "value", "out")]
    names = [f"{part}/kernel" for part in parts]  # the table is looked up, too: it is left alone
    return lambda p, x: model.apply({"params": p}, x), params, names, data


def convolutions():
    """Plain, grouped and strided convolutions, and a kernel that is transposed on its way."""
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape) / 4
    params = {
        "plain": draw(0, 3, 3, 4, 8),
        "grouped": draw(1, 3, 3, 4, 12),
        "strided": draw(2, 8, 12, 2, 2),
        "head": draw(3, 4, 8),
    }

    def apply(p, x):
        convolve = functools.partial(
            jax.lax.conv_general_dilated, padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(convolve(x, p["plain"], (1, 1)))
        x = jax.nn.relu(convolve(x, p["grouped"], (1, 1), feature_group_count=2))
        x = jax.nn.relu(convolve(x, p["strided"].transpose(2, 3, 1, 0), (2, 2)))
        return x.mean((1, 2)) @ p["head"].T

    data = [x.reshape(2, 6, 8, 4) for x in batches()]
    return apply, params, list(params), data


def experts():
    """A router, four experts as one stack, two of them for each token by their gates, weights drawn."""
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape) / 4
    params = {"router": draw(0, 16, 4), "up": draw(1, 4, 16, 32), "down": draw(2, 4, 32, 16)}

    def apply(params, x):
        gates = jax.nn.softmax(x @ params["router"])
        gates = jnp.where(gates >= jax.lax.top_k(gates, 2)[0][..., 1:], gates, 0)
        hidden = jax.nn.relu(jnp.einsum("btd,edh->bteh", x, params["up"]))
        return x + jnp.einsum("bteh,ehd,bte->btd", hidden, params["down"], gates)

    return apply, params, ["router", "up", "down"]


def dispatched_experts():
    """Experts with room for four tokens each: a batch axis of both products."""
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape) / 4
    params = {"router": draw(0, 16, 4), "up": draw(1, 4, 16, 32), "down": draw(2, 4, 32, 16)}

    def apply(params, x):
        rows = x.reshape(-1, 16)
        gates = jax.nn.softmax(rows @ params["router"])
        room, chosen = jax.lax.top_k(gates.T, 4)  # the tokens that each expert wants most
        hidden = jax.nn.relu(jnp.einsum("ecd,edh->ech", rows[chosen], params["up"]))
        outputs = room[..., None] * jnp.einsum("ech,ehd->ecd", hidden, params["down"])
        return rows.at[chosen.reshape(-1)].add(outputs.reshape(-1, 16))

    return apply, params, ["router", "up", "down"]


def ragged_experts():
    """Experts whose rows are sorted beside each other."""
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape) / 4
    params = {"router": draw(0, 16, 4), "up": draw(1, 4, 16, 32), "down": draw(2, 4, 32, 16)}

    def apply(params, x):
        rows = x.reshape(-1, 16)
        chosen = jnp.argmax(rows @ params["router"], -1)
        order = jnp.argsort(chosen)
        sizes = jnp.bincount(chosen, length=4)
        hidden = jax.nn.relu(jax.lax.ragged_dot(rows[order], params["up"], sizes))
        return jax.lax.ragged_dot(hidden, params["down"], sizes)

    return apply, params, ["router", "up", "down"]


MODELS = {
    "nnx einsums": nnx_einsums,
    "linen scanned": linen_scanned,
    "haiku": haiku_model,
    "maxtext stack": maxtext_stack,
    "speech": speech,
    "convolutions": convolutions,
    "experts": experts,
    "dispatched experts": dispatched_experts,
    "ragged experts": ragged_experts,
}


def batches(count=2):
    mixing = np.random.default_rng(0).normal(size=(16, 16)) * np.logspace(-1, 0.5, 16)
    draw = lambda i: np.asarray(jax.random.normal(jax.random.key(i), (4, 6, 16)) @ mixing)
    return [draw(i).astype(np.float32) for i in range(count)]


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name):
    apply, params, names, *own_data = MODELS[name]()
    data = own_data[0] if own_data else batches()
    plan = jp.posttrain.plan(apply, params, data[0])
    assert sorted(kernel.name for kernel in plan.kernels) == sorted(names)
    found = jp.posttrain.prune(plan, params, data, solver=WANDA, pattern=HALF)
    axes = jp.axes(apply, params, data[0])
    leaves = zip(
        jax.tree.leaves(found.params),
        jp.masks.beside(params, found.masks),
        jp.masks.beside(params, axes),
        jax.tree.leaves(params),
        strict=True,
    )
    for new, mask, own, old in leaves:
        if mask is None:
            assert (new == old).all()
            continue
        if own.in_axis is None:  # experts that gates mix: [experts, inputs, outputs]
            own = jp.Axes(1, 2, 0)
        others = [a for a in range(mask.ndim) if a not in (*own.batch_axis, *own.in_axis)]
        order = (*own.batch_axis, *own.in_axis, *others)
        size = np.prod([mask.shape[a] for a in own.in_axis])
        layers = int(np.prod([mask.shape[a] for a in own.batch_axis]))
        kept = np.asarray(mask).transpose(order).reshape(layers, size // 4, 4, -1).sum(2)
        assert np.all(kept == 2)  # along the inputs that the program sums over
        assert ((new != 0) == mask).all()
        assert (new == jnp.where(mask, old, 0)).all()
    assert found.report.sparsity == 0.5


def test_kernels_that_attend_to_one_encoder_share_its_gram():
    apply, params, _, data = speech()
    plan = jp.posttrain.plan(apply, params, data[0])
    memory = {
        kernel.inputs for kernel in plan.kernels if re.search("cross.*(key|value)", kernel.name)
    }
    assert len(memory) == 1
    assert not plan.chosen[plan.names.index("table/embedding")]


def test_experts_in_one_stack_by_sparsegpt_are_solved_one_by_one():
    apply, params, _ = experts()
    x = batches()[0]
    pruned, masks = jp.posttrain.sparsegpt(
        apply, params, [x], sparsity=0.5, pattern=HALF, prunable="up"
    )
    gram = jp.signals.grams(apply, params, [x])["up"]
    from jaxprune.posttrain.contests import contest
    from jaxprune.posttrain.views import Layout

    who = contest(HALF, Layout((16, 32), (), (0,), (1,)), 0.5, "w")
    for expert in range(4):
        own = gram if gram.ndim == 2 else gram[expert]
        [alone] = solvers.sparsegpt()([params["up"][expert][None]], [who], grams=own[None])
        np.testing.assert_allclose(pruned["up"][expert], alone.kernel[0], rtol=2e-3, atol=1e-4)
    assert masks["router"] is None
