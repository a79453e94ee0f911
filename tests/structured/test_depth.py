"""Residual branches are found, measured and left out, with all of their weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_zoo import model

import jaxprune as jp
from jaxprune import structured

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
X = draw(3, 4)


def layers(p, x):
    for own in p["layers"]:
        x = (
            x
            + jax.nn.relu(x @ own["up"]["kernel"] + own["up"]["bias"][None]) @ own["down"]["kernel"]
        )
    return x @ p["head"]["kernel"]


def params_of(count):
    one = lambda: {
        "up": {"kernel": draw(4, 6), "bias": draw(6)},
        "down": {"kernel": draw(6, 4)},
    }
    return {"layers": [one() for _ in range(count)], "head": {"kernel": draw(4, 2)}}


PARAMS = params_of(3)
GRAPH = structured.trace(layers, PARAMS, X)


def test_each_layer_is_a_block_with_what_it_alone_reads():
    found = structured.blocks(GRAPH)
    assert [block.name for block in found] == ["layers/0", "layers/1", "layers/2"]
    assert found[1].paths == (
        "layers/1/down/kernel", "layers/1/up/bias", "layers/1/up/kernel"
    )  # fmt: skip


def test_without_a_block_the_others_are_what_is_computed():
    masks = structured.without_blocks(GRAPH, ["layers/1"])
    small = structured.shrink(GRAPH, PARAMS, masks)
    fewer = PARAMS | {"layers": [PARAMS["layers"][0], PARAMS["layers"][2]]}
    expected = layers(fewer, X)
    np.testing.assert_allclose(small.apply(small.params, X), expected, rtol=1e-6)
    np.testing.assert_allclose(layers(jp.masks.apply(PARAMS, masks), X), expected, rtol=1e-6)
    gone = jax.tree.leaves(small.params["layers"][1])
    assert all(leaf.size == 0 for leaf in gone)
    eight = jnp.concatenate([X, X, X[:2]])
    np.testing.assert_allclose(small.apply(small.params, eight), layers(fewer, eight), rtol=1e-6)
    grads = jax.grad(lambda p: small.apply(p, X).sum())(small.params)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, small.params)
    found = structured.report(GRAPH, PARAMS, masks)
    assert found.blocks == ("layers/1",)
    assert found.parameters == (sum(x.size for x in jax.tree.leaves(PARAMS)), 2 * 54 + 8)
    assert found.flops[0] - found.flops[1] == 2 * 2 * 3 * 4 * 6
    assert "left out" in str(found)


def test_blocks_and_units_go_together():
    units = structured.prune(GRAPH, PARAMS, sparsity=0.5)
    block = structured.without_blocks(GRAPH, ["layers/0"])
    both = lambda a, b: b if a is None else a if b is None else a & b
    none = lambda x: x is None
    masks = jax.tree.map(both, units, block, is_leaf=none)
    small = structured.shrink(GRAPH, PARAMS, masks)
    expected = layers(jp.masks.apply(PARAMS, masks), X)
    np.testing.assert_allclose(small.apply(small.params, X), expected, rtol=1e-5, atol=1e-6)
    assert small.params["layers"][1]["up"]["kernel"].shape == (4, 3)


def test_influence_is_how_far_a_block_turns_what_flows_by():
    weak = jax.tree.map(lambda x: x, PARAMS)
    weak["layers"][2] = jax.tree.map(lambda w: 1e-3 * w, PARAMS["layers"][2])
    found = structured.influence(GRAPH, weak, X)
    h = X
    for i, own in enumerate(weak["layers"]):
        after = layers({"layers": [own], "head": {"kernel": jnp.eye(4)}}, h)
        cos = jnp.sum(h * after, -1) / jnp.linalg.norm(h, axis=-1) / jnp.linalg.norm(after, axis=-1)
        assert found[f"layers/{i}"] == pytest.approx(1 - float(cos.mean()), abs=1e-5)
        h = after
    assert min(found, key=found.get) == "layers/2"


@pytest.mark.parametrize("name", ["residual", "llama", "convnext"])
def test_blocks_of_networks(name):
    apply, params, x = model(name)
    graph = structured.trace(apply, params, x)
    found = structured.blocks(graph)
    assert found
    masks = structured.without_blocks(graph, [found[-1].name])
    small = structured.shrink(graph, params, masks)
    masked = apply(jp.masks.apply(params, masks), x)
    np.testing.assert_allclose(small.apply(small.params, x), masked, atol=2e-5)
    assert structured.parameters(graph, params, masks) == sum(
        leaf.size for leaf in jax.tree.leaves(small.params)
    )


def test_what_is_no_block():
    gated = lambda p, x: (x + x * jax.nn.sigmoid(x)) @ p["w"] + p["b"][None]
    assert structured.blocks(structured.trace(gated, {"w": draw(4, 2), "b": draw(2)}, X)) == ()
    with pytest.raises(ValueError, match="no block 'layers/9'; there are: layers/0"):
        structured.without_blocks(GRAPH, ["layers/9"])


def test_a_function_without_a_block_is_saved(tmp_path):
    pytest.importorskip("flatbuffers")
    small = structured.shrink(GRAPH, PARAMS, structured.without_blocks(GRAPH, ["layers/1"]))
    structured.save(tmp_path / "small", small, X)
    found = structured.load(tmp_path / "small")
    expected = small.apply(small.params, X)
    np.testing.assert_allclose(found.apply(found.params, X), expected, rtol=1e-6)


def test_gates_are_told_and_nothing_may_be_left_of_a_stack():
    gated = lambda p, x: x + x * jax.nn.sigmoid(x @ p["w"])
    params = {"w": draw(4, 4)}
    graph = structured.trace(gated, params, X)
    assert [block.name for block in structured.blocks(graph)] == ["w"]
    assert structured.verify(graph, params, X)["w"] > 0.1
    assert structured.verify(GRAPH, PARAMS, X)["layers/1"] < 1e-6
    masks = structured.without_blocks(graph, "w")
    assert "-" in str(structured.report(graph, params, masks))
