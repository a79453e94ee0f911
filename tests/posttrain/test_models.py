"""The same driver on models of several libraries, unedited: kernels, exact counts, 2:4 along inputs."""

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
    "experts": experts,
    "ragged experts": ragged_experts,
}


def batches(count=2):
    mixing = np.random.default_rng(0).normal(size=(16, 16)) * np.logspace(-1, 0.5, 16)
    draw = lambda i: np.asarray(jax.random.normal(jax.random.key(i), (4, 6, 16)) @ mixing)
    return [draw(i).astype(np.float32) for i in range(count)]


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name):
    apply, params, names = MODELS[name]()
    data = batches()
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
        order = (*own.batch_axis, *own.in_axis, *own.out_axis)
        size = np.prod([mask.shape[a] for a in own.in_axis])
        layers = int(np.prod([mask.shape[a] for a in own.batch_axis]))
        kept = np.asarray(mask).transpose(order).reshape(layers, size // 4, 4, -1).sum(2)
        assert np.all(kept == 2)  # along the inputs that the program sums over
        assert ((new != 0) == mask).all()
        assert (new == jnp.where(mask, old, 0)).all()
    assert found.report.sparsity == 0.5


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
