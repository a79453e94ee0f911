"""Other functions of the parameters of a small one: training modes, with statistics and random numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune import structured
from jaxprune.structured.shrinking.comparison import relative_error


class Net(nn.Module):
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(16, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(10)(nn.relu(nn.Dense(12)(x.mean(axis=(1, 2)))))


def pruned(model):
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = model.init(jax.random.key(1), x, train=False)
    graph = structured.trace(lambda v, x: model.apply(v, x, train=False), variables, x)
    masks = structured.prune(graph, variables, sparsity=0.5)
    return structured.shrink(graph, variables, masks), jp.masks.apply(variables, masks), x


def test_dropout_draws_what_the_whole_function_draws():
    model = Net(dropout=0.5)
    small, masked, x = pruned(model)

    def train(v, x, key):
        return model.apply(v, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})

    key = jax.random.key(5)
    logits, updated = jax.jit(small.like(train))(small.params, x, key)
    expected, statistics = train(masked, x, key)
    assert relative_error(logits, expected) < 1e-5
    assert relative_error(updated, small.plan.within("batch_stats").apply(statistics)) < 1e-5
    gradient = jax.grad(lambda v: small.like(train)(v, x, key)[0].sum())(small.params)
    whole = jax.grad(lambda v: train(v, x, key)[0].sum())(masked)
    assert relative_error(gradient, small.plan.apply(whole)) < 1e-5
    assert small.like(train) is small.like(train)


def test_nnx_returns_its_state():
    class Module(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(6, 16, rngs=rngs)
            self.norm = nnx.BatchNorm(16, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(16, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))

    module, x = Module(nnx.Rngs(0)), jax.random.normal(jax.random.key(0), (5, 6))
    small = structured.smaller(module, x, sparsity=0.5)
    assert not module.drop.deterministic, "the module stays as it was"

    def train(state, x):
        own = small.merge(state)
        return own(x), nnx.state(own)

    outputs, state = small.like(train)(small.params, x)
    masked = jp.masks.apply(nnx.state(module), small.masks)
    expected, whole = train(masked, x)
    assert relative_error(outputs, expected) < 1e-5
    shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    assert shapes(state) == shapes(small.params)
    counts = lambda tree: int(tree["drop"]["rngs"]["count"][...])
    assert counts(state) == counts(whole) == counts(small.params) + 1
    again, _ = small.like(train)(state, x)  # its outputs are parameters again
    assert again.shape == outputs.shape


def test_what_ties_a_removed_unit_to_something_pinned_is_refused():
    small, _, x = pruned(Net())
    model = Net()

    def reads(v, x, probe):
        logits = model.apply(v, x, train=False)
        return logits + (v["params"]["Dense_1"]["kernel"] @ probe).sum()

    with pytest.raises(ValueError, match=r"'params/.*' that were removed along axis .*exclude="):
        small.like(reads)(small.params, x, jnp.ones((12, 1)))


def test_parameters_of_another_shape_are_refused():
    small, masked, x = pruned(Net())
    with pytest.raises(ValueError, match=r"has the shape .* is left of it"):
        small.apply(masked, x)
    with pytest.raises(ValueError, match="leaves"):
        small.apply(small.params["params"], x)


def test_another_function_that_is_not_exact_warns():
    params = {"a": jnp.ones((4, 8)), "b": jnp.ones((8, 3))}
    x = jax.random.normal(jax.random.key(0), (5, 4))
    graph = structured.trace(lambda p, x: x @ p["a"] @ p["b"], params, x)
    small = structured.shrink(graph, params, structured.prune(graph, params, sparsity=0.5))
    with pytest.warns(UserWarning, match=r"other function 'a\[1\]' is not exact: a maximum"):
        small.like(lambda p, x: jax.nn.softmax(x @ p["a"]) @ p["b"])(small.params, x)
