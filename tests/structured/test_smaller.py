"""One call for a whole model: modules of libraries in, a smaller callable out."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune import structured
from jaxprune.structured.shrinking.comparison import relative_error

x = jax.random.normal(jax.random.key(0), (5, 6))


class Attention(nn.Module):
    """Four heads of eight channels, and a mode that must be told."""

    @nn.compact
    def __call__(self, x, deterministic):
        x = nn.Dense(16)(x)
        inner = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(4, qkv_features=32)(
            inner, deterministic=deterministic
        )
        return nn.Dense(3)(nn.LayerNorm()(x))


def attention():
    model, inputs = Attention(), jax.random.normal(jax.random.key(0), (2, 7, 6))
    return model, model.init(jax.random.key(1), inputs, deterministic=True), inputs


def test_a_linen_module_is_evaluated():
    model, variables, inputs = attention()
    small = structured.smaller((model, variables), inputs, sparsity=0.5)
    masked = jp.masks.apply(variables, small.masks)
    expected = model.apply(masked, inputs, deterministic=True)
    assert relative_error(small(inputs), expected) < 1e-5
    assert small.report.error < 1e-5
    assert small.report.figures.seconds is None
    assert not small.report.left_alone


def test_heads_and_their_channels_at_rates_of_their_own():
    """In fused projections both run along one axis, and the channels, of which there are more, go first."""
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    params = {"q": draw(1, 6, 32), "k": draw(2, 6, 32), "v": draw(3, 6, 32), "o": draw(4, 32, 2)}

    def fn(p, x):
        apart = lambda name: (x @ p[name]).reshape(5, 7, 4, 8)
        scores = jnp.einsum("bthk,bshk->bhts", apart("q"), apart("k"))
        found = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores), apart("v"))
        return found.reshape(5, 7, 32) @ p["o"]

    inputs = draw(5, 5, 7, 6)
    alone = structured.smaller((fn, params), inputs, sparsity=0.5)
    assert alone.report.left_alone == {
        "k[1]": "it shares axes with k[1] #2; a sparsity of its own prunes both"
    }
    sizes = {group.name: group.size for group in alone.graph.groups}
    assert sizes == {"k[1]": 4, "k[1] #2": 8, "v[1]": 8}
    small = structured.smaller(
        (fn, params), inputs, sparsity={"k[1]": 0.5, "k[1] #2": 0.25, "v[1]": 0.75}
    )
    assert small.report.figures.groups == {"k[1]": (4, 2), "k[1] #2": (8, 6), "v[1]": (8, 2)}
    assert small.params["q"].shape == (6, 12)
    assert small.params["o"].shape == (4, 2)
    assert small.report.error < 1e-5


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass
class Layers:
    """As Equinox has modules: trees with arrays, functions and nothing as their leaves."""

    weights: list
    activation: Callable
    bias: None = None

    def __call__(self, x):
        for weight in self.weights[:-1]:
            x = self.activation(weight @ x)
        return self.weights[-1] @ x

    def tree_flatten(self):
        return (self.weights, self.activation, self.bias), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def layers():
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    return Layers([draw(1, 16, 6), draw(2, 12, 16), draw(3, 2, 12)], jax.nn.relu)


def test_a_tree_that_can_be_called():
    module = layers()
    small = structured.smaller(module, x, sparsity=0.5, call=lambda m, x: jax.vmap(m)(x))
    assert small(x).shape == (5, 2)
    assert [w.shape for w in small.params.weights] == [(8, 6), (6, 8), (2, 6)]
    assert small.report.error < 1e-5
    whole = small.merge(module)
    np.testing.assert_array_equal(whole(x[0]), module(x[0]))


def test_functions_as_leaves_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"'1'.*partition.*smaller"):
        structured.trace(lambda m, x: jax.vmap(m)(x), layers(), x)


def test_steps_go_on_from_what_was_trained():
    module = nnx.Sequential(
        nnx.Linear(6, 32, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(32, 5, rngs=nnx.Rngs(1))
    )
    small = structured.smaller(module, x, sparsity=0.75, steps=2)
    counts, before = [], None
    while True:
        kept = small.plan.kept["layers/0/kernel"][1]
        assert before is None or set(kept) < set(before)
        counts.append(len(kept))
        before = kept
        loss = lambda p, small=small: (small.apply(p, x) ** 2).mean()
        params = optax.apply_updates(
            small.params, jax.tree.map(lambda g: -0.1 * g, jax.grad(loss)(small.params))
        )
        if small.done:
            break
        small = small.step(params)
    assert counts == [16, 8]
    with pytest.raises(ValueError, match="no further step"):
        small.step()


def test_a_cap_holds_where_groups_are_compared():
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    params = {"a": 0.01 * draw(1, 6, 20), "b": draw(2, 20, 20), "c": draw(3, 20, 2)}
    fn = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]
    params["b"] = params["b"] * jnp.where(jnp.arange(20) < 16, 0.01, 1.0)[:, None]
    graph = structured.trace(fn, params, x)
    left = {}
    for cap in (1.0, 0.6):
        options = {"sparsity": 0.5, "scope": "global", "normalize": "none", "cap": cap}
        small = structured.smaller((fn, params), x, **options)
        left[cap] = [own for _, own in small.report.figures.groups.values()]
    assert sum(left[1.0]) == sum(left[0.6]) == 20
    assert min(left[1.0]) < 8 <= min(left[0.6])
    with pytest.raises(ValueError, match="cap"):
        structured.prune(graph, params, sparsity=0.5, scope="global", cap=0)


def test_what_is_not_exact_is_named():
    params = {
        n: jax.random.normal(jax.random.key(i), s)
        for i, (n, s) in enumerate({"a": (6, 16), "b": (16, 8), "c": (8, 3)}.items())
    }
    fn = lambda p, x: jax.nn.softmax(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]
    small = structured.smaller((fn, params), x, sparsity=0.5)
    assert "reduce_max" in small.report.left_alone["b[1]"]
    both = structured.smaller((fn, params), x, sparsity=0.5, inexact="allow")
    assert "not exact: b[1]" in str(both.report)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    assert structured.smaller((fn, params), shapes, sparsity=0.5).report.error is None


def test_latency_is_measured_only_if_asked_for():
    fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    params = {"a": jnp.ones((6, 8)), "b": jnp.ones((8, 2))}
    small = structured.smaller((fn, params), x, sparsity=0.5, latency=True)
    assert small.report.figures.seconds is not None


@pytest.mark.parametrize("wrong", [3, (3, {}), jnp.ones(3), {"a": jnp.ones(3)}])
def test_what_is_no_module_is_refused(wrong):
    with pytest.raises(TypeError, match=r"structured.smaller.*give"):
        structured.smaller(wrong, x, sparsity=0.5)
