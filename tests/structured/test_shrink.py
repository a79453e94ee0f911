"""Removed units are gone, and the small function gives what the whole one gives with zeros in their place."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from network_zoo import MODELS, drawn, model

import jaxprune as jp
from benchmarks.architectures import Bottleneck, ResNet
from jaxprune import structured


def close(a, b):
    scale = max(float(jnp.abs(b).max()), 1.0)
    assert float(jnp.abs(a - b).max()) < 2e-5 * scale


# Zeros let something through: experts have a softmax.
INEXACT = {"experts": {"params/Dense_0/kernel[1]"}}


QUICK = {"vgg", "residual", "channel shuffle", "llama", "scan and remat", "nnx"}
SOME = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", SOME)
def test_half_of_every_group_is_removed(name):
    apply, params, x = model(name)
    graph = structured.trace(apply, params, x)
    assert graph.groups
    assert not graph.unknown, graph.summary()
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert size(small.params) < 0.8 * size(params)
    more = jnp.concatenate([x, x[:1]])  # another batch size
    masked = jax.jit(apply)(jp.masks.apply(params, masks), more)
    close(jax.jit(small.apply)(small.params, more), masked)


@pytest.mark.parametrize("name", ["mixer", "experts"])
def test_each_group_alone_and_which_are_exact(name):
    apply, params, x = model(name)
    graph = structured.trace(apply, params, x)
    inexact = {group.name for group in graph.groups if not group.exact}
    assert inexact == INEXACT.get(name, set())
    found = structured.verify(graph, params, x)
    assert max(error for group, error in found.items() if group not in inexact) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_each_group_of_all_networks_alone(name):
    apply, params, x = model(name)
    graph = structured.trace(apply, params, x)
    inexact = {group.name for group in graph.groups if not group.exact}
    assert inexact == INEXACT.get(name, set())
    found = structured.verify(graph, params, x)
    assert max(error for group, error in found.items() if group not in inexact) < 2e-5


@pytest.mark.slow
def test_half_of_resnet_50():
    """He et al. 2016, to the published shapes, on small images; biases of BatchNorm are drawn."""
    module = ResNet(Bottleneck, (3, 4, 6, 3))
    x = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    params = jax.jit(module.init)(jax.random.key(1), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(params["params"])) == 25_557_032
    named = zip(jp.masks.paths(params), jax.tree.leaves(params), strict=True)
    keys = iter(jax.random.split(jax.random.key(2), 200))
    shifted = [
        w + 0.3 * jax.random.normal(next(keys), w.shape) if path.endswith("bias") else w
        for path, w in named
    ]
    params = jax.tree.structure(params).unflatten(shifted)
    graph = structured.trace(module.apply, params, x)
    assert len(graph.groups) == 37
    assert sum(group.size for group in graph.groups) == 11_456
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    assert sum(leaf.size for leaf in jax.tree.leaves(small.params["params"])) == 6_917_640
    masked = jax.jit(module.apply)(jp.masks.apply(params, masks), x)
    close(jax.jit(small.apply)(small.params, x), masked)


def names(graph):
    return {group.name: group.size for group in graph.groups}


def test_groups_of_known_networks():
    found = names(structured.trace(*model("channel shuffle")))
    assert found["params/Conv_1/kernel[3]"] == 6
    found = structured.trace(*model("llama"))
    sizes = sorted(group.size for group in found.groups)
    # pairs of rotary dimensions, query heads of each group, groups, value dimensions, width, gated units
    assert sizes == [2, 2, 4, 8, 12, 16]
    found = names(structured.trace(*model("scan and remat")))
    assert sorted(found.values()) == [8, 12]


def test_gradients_are_those_of_the_whole_function():
    apply, params, x = model("residual")
    graph = structured.trace(apply, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    loss = lambda f: lambda p: jnp.sum(jnp.sin(f(p, x)))
    whole = jax.grad(loss(apply))(jp.masks.apply(params, masks))
    own = jax.grad(loss(small.apply))(small.params)
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(small.plan.apply(whole)), strict=True):
        close(a, b)


def test_where_relu_is_at_its_corner_and_what_is_recomputed():
    """An input of zeros and a bias of zeros: the slope of relu is 0 there, that of a maximum 1/2."""

    @jax.checkpoint
    def block(x, own):
        return x + jax.nn.relu(x @ own["up"] + own["bias"][None]) @ own["down"]

    def fn(params, x):
        for own in params["blocks"]:
            x = block(x, own)
        return x @ params["head"]

    draw = lambda *shape: jnp.asarray(
        np.random.default_rng(len(shape)).normal(size=shape), "float32"
    )
    own = {"up": draw(4, 8), "bias": jnp.zeros(8), "down": draw(8, 4)}
    params, x = {"blocks": [own, own], "head": draw(4, 2)}, jnp.zeros((3, 4)).at[1].set(1.0)
    graph = structured.trace(fn, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    slopes = jax.grad(lambda p: small.apply(p, x).sum())
    whole = jax.grad(lambda p: fn(p, x).sum())(jp.masks.apply(params, masks))
    for ours, theirs in zip(
        jax.tree.leaves(slopes(small.params)), jax.tree.leaves(small.plan.apply(whole)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert "prevent_cse" in str(jax.make_jaxpr(slopes)(small.params)), "it is recomputed still"
    masks = structured.without_blocks(graph, structured.blocks(graph)[0].name)
    small = structured.shrink(graph, params, masks)
    masked = fn(jp.masks.apply(params, masks), x)
    np.testing.assert_allclose(small.apply(small.params, x), masked, rtol=1e-5)


def limited(x):
    return jnp.clip(x, 0, 1)


def leaky(x):
    return jnp.where(x > 0, x, 0.3 * x)


@pytest.mark.parametrize("inner", [limited, leaky], ids=lambda f: f.__name__)
def test_what_is_only_called_relu_stays_what_it_is(inner):
    own = lambda x: inner(x)
    own.__name__ = "relu"
    f = jax.custom_jvp(jax.jit(own))
    f.defjvp(lambda primals, tangents: (f(*primals), tangents[0]))
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"a": jax.random.normal(keys[0], (4, 8)), "b": jax.random.normal(keys[1], (8, 2))}
    x = 3 * jax.random.normal(keys[2], (5, 4))
    graph = structured.trace(lambda p, x: f(x @ p["a"]) @ p["b"], params, x)
    assert max(structured.verify(graph, params, x).values()) < 1e-6


def test_the_optimizers_state_shrinks_along():
    apply, params, x = model("vgg")
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    update = jax.jit(tx.update)
    grads = jax.tree.map(lambda weights: weights + 1, params)
    _, state = update(grads, tx.init(params), params)
    graph = structured.trace(apply, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    smaller = small.shrink_state(state)
    for moment in ("mu", "nu"):
        own = getattr(smaller[1][0], moment)
        assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, small.params)
        expected = small.plan.apply(getattr(state[1][0], moment))
        assert jax.tree.all(jax.tree.map(jnp.array_equal, own, expected))
    updates, _ = update(small.plan.apply(grads), smaller, small.params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, small.params)


def test_masks_that_are_trained_with_can_be_shrunk():
    apply, params, x = model("residual")
    graph = structured.trace(apply, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    tx = jp.fixed(optax.sgd(1e-4), masks)  # statistics are trained too, and variances stay above 0
    params = jp.masks.apply(params, masks)
    grads = jax.grad(lambda p: jnp.sum(apply(p, x) ** 2))(params)
    updates, state = tx.update(grads, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    small = structured.shrink(graph, params, jp.masks_of(state))
    close(small.apply(small.params, x), apply(params, x))


def test_other_zeros_stay_zeros():
    apply, params, x = model("vgg")
    graph = structured.trace(apply, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    kernel = masks["params"]["Conv_1"]["kernel"]
    masks["params"]["Conv_1"]["kernel"] = kernel & (
        jnp.arange(kernel.size).reshape(kernel.shape) % 5 > 0
    )
    small = structured.shrink(graph, params, masks)
    close(small.apply(small.params, x), apply(jp.masks.apply(params, masks), x))
    assert float(jnp.mean(small.params["params"]["Conv_1"]["kernel"] == 0)) == pytest.approx(
        1 / 5, abs=0.05
    )


def test_masks_that_remove_no_unit_are_refused():
    apply, params, x = model("vgg")
    graph = structured.trace(apply, params, x)
    masks = jp.prune(params, jp.methods.random(sparsity=0.5), key=jax.random.key(0))[1]
    with pytest.raises(ValueError, match=r"no unit is masked in all of its slices[\s\S]*Dense_0"):
        structured.shrink(graph, params, masks)


def test_what_has_no_rule_is_pinned_and_named():
    def fn(p, x):
        h = x @ p["a"]
        h = jax.pure_callback(np.asarray, jax.ShapeDtypeStruct(h.shape, h.dtype), h)
        return jax.nn.relu(h @ p["b"]) @ p["c"]

    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 6)), "c": jnp.ones((6, 2))}
    graph = structured.trace(fn, params, jnp.ones((2, 3)))
    assert names(graph) == {"b[1]": 6}
    assert "pinned: pure_callback (1)" in graph.summary()


def test_ratios_by_path_rounding_and_scope():
    apply, params, x = model("vgg")
    graph = structured.trace(apply, params, x)
    masks = structured.prune(graph, params, sparsity={r"Conv_1/bias": 0.75})
    left = {r["leaf"]: r["kept"] / r["weights"] for r in jp.masks.summary(masks)}
    assert left["params/Conv_1/bias"] == 0.25
    rounded = structured.prune(graph, params, sparsity=0.6, round_to=4)
    kept = {r["leaf"]: r["kept"] for r in jp.masks.summary(rounded)}
    assert (kept["params/Conv_0/bias"], kept["params/Conv_1/bias"]) == (4, 8)
    pooled = structured.prune(graph, params, sparsity=0.5, scope="global")
    units = [r["kept"] for r in jp.masks.summary(pooled) if r["leaf"].endswith("bias")]
    assert min(units) >= 1
    with pytest.raises(ValueError, match="no group is meant"):
        structured.prune(graph, params, sparsity={"Conv_9": 0.5})
    with pytest.raises(ValueError, match=r"fractions in \[0, 1\)"):
        structured.prune(graph, params, sparsity=1.0)


def test_groups_that_stay_whole():
    apply, params, x = model("vgg")
    graph = structured.trace(apply, params, x)
    lost = lambda **how: {
        path
        for path, m in zip(
            graph.paths,
            jp.masks.beside(params, structured.prune(graph, params, **how)),
            strict=True,
        )
        if m is not None
    }
    every = lost(sparsity=0.5)
    assert lost(sparsity=0.5, exclude="Conv") == lost(sparsity=0.5, only="Dense_1/bias")
    assert lost(sparsity=0.5, exclude=lambda group: group.size > 8) < every
    rates = {"Conv_0/kernel.3": 0.5, "Conv_1/kernel.3": 0.25}
    assert lost(sparsity=rates, exclude="Conv_1/kernel.3") == lost(
        sparsity=0.5, only="Conv_0/kernel.3"
    )
    with pytest.raises(ValueError, match=r"exclude='\.'"):
        structured.prune(graph, params, sparsity=0.5, exclude=".")


def test_scores_are_sums_over_the_slices_of_all_kernels():
    fn = lambda p, x: jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"]) @ p["b"]["kernel"]
    params = {
        "a": {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([[9.0, 9.0]])},
        "b": {"kernel": jnp.array([[1.0], [-4.0]])},
    }
    graph = structured.trace(fn, params, jnp.ones((1, 2)))
    (found,) = structured.scores(graph, params).values()
    np.testing.assert_allclose(found, [1 + 3 + 1, 2 + 0.5 + 4])
    (largest,) = structured.scores(graph, params, reduce="max").values()
    np.testing.assert_allclose(largest, [3, 4])
    with pytest.raises(ValueError, match="taylor reads 'grads'"):
        structured.scores(graph, params, criterion=jp.criteria.taylor)


def test_units_whose_gates_are_closed_are_removed():
    """Gates on the inputs of each layer; the columns before them, and the biases, have no mask of theirs."""
    apply = lambda p, x: jp.nn.lenet_300_100(num_classes=10).apply({"params": p}, x)
    x = jax.random.uniform(jax.random.key(0), (4, 28, 28, 1))
    params = drawn(jp.nn.lenet_300_100(num_classes=10).init(jax.random.key(0), x)["params"])
    gate = jp.gates.hard_concrete(pattern=jp.patterns.channel(axis=-2))
    theta = gate.init(params, jax.random.key(1))
    closed = jax.tree.map(
        lambda g: g - 20.0 * (jax.random.uniform(jax.random.key(2), g.shape) < 0.5), theta.gates
    )
    closed["fc1/kernel"] = theta.gates["fc1/kernel"]  # inputs are images: they stay
    sparse, masks = gate.finalize(theta._replace(gates=closed))
    useful = jp.metrics.effective(apply, sparse, masks, x)
    graph = structured.trace(apply, sparse, x)
    small = structured.shrink(graph, sparse, useful)
    alive = [int(useful[n]["kernel"].any(1).sum()) for n in ("fc2", "fc3")]
    assert [small.params[n]["bias"].size for n in ("fc1", "fc2")] == alive
    assert all(20 < n < 200 for n in alive)
    close(small.apply(small.params, x), apply(sparse, x))
