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


def scanned(p, x, *, layer, remat=False):
    body = jax.checkpoint(layer) if remat else layer
    carry, rows = jax.lax.scan(body, x @ p["embed"], p["layers"])
    return carry @ p["head"], rows


def residual(x, own):
    return x + jax.nn.relu(x @ own["up"] + own["bias"][None]) @ own["down"], None


def stacks():
    return {
        "embed": draw(4, 6),
        "layers": {"up": draw(5, 6, 8), "bias": draw(5, 8), "down": draw(5, 8, 6)},
        "head": draw(6, 2),
    }


@pytest.mark.parametrize("remat", [False, True])
def test_layers_under_a_scan_are_left_out_one_by_one(remat):
    params = stacks()
    fn = lambda p, x: scanned(p, x, layer=residual, remat=remat)[0]
    graph = structured.trace(fn, params, X)
    assert [block.name for block in structured.blocks(graph)] == [f"layers[{i}]" for i in range(5)]
    assert "5 iterations of a loop" in graph.summary()
    assert [group.size for group in graph.groups] == [6, 8], "layers are blocks, no units"
    masks = structured.without_blocks(graph, ["layers[1]", "layers[4]"])
    assert masks["embed"] is None
    small = structured.shrink(graph, params, masks)
    left = np.array([0, 2, 3])
    fewer = params | {"layers": jax.tree.map(lambda w: w[left], params["layers"])}
    assert jax.tree.map(jnp.shape, small.params) == jax.tree.map(jnp.shape, fewer)
    for x in (X, jnp.concatenate([X, X])):
        np.testing.assert_allclose(small.apply(small.params, x), fn(fewer, x), rtol=1e-5)
    masked = fn(jp.masks.apply(params, masks), X)
    np.testing.assert_allclose(small.apply(small.params, X), masked, rtol=1e-5)
    found = structured.report(graph, params, masks)
    assert found.blocks == ("layers[1]", "layers[4]")
    assert found.flops == tuple(2 * 3 * (4 * 6 + n * 2 * 6 * 8 + 6 * 2) for n in (5, 3))
    assert max(structured.verify(graph, params, X).values()) < 1e-5
    grads = jax.grad(lambda p: small.apply(p, X).sum())(small.params)
    expected = jax.grad(lambda p: fn(p, X).sum())(fewer)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, expected
    )


def test_layers_under_a_scan_and_their_units_go_together_and_are_saved(tmp_path):
    pytest.importorskip("flatbuffers")
    params = stacks()
    fn = lambda p, x: scanned(p, x, layer=residual)[0]
    graph = structured.trace(fn, params, X)
    units = structured.prune(graph, params, sparsity=0.5, only="bias")
    layer = structured.without_blocks(graph, "layers[2]")
    both = lambda a, b: b if a is None else a if b is None else a & b
    masks = jax.tree.map(both, units, layer, is_leaf=lambda x: x is None)
    small = structured.shrink(graph, params, masks)
    assert small.params["layers"]["up"].shape == (4, 6, 4)
    expected = fn(jp.masks.apply(params, masks), X)
    np.testing.assert_allclose(small.apply(small.params, X), expected, rtol=1e-5, atol=1e-5)
    moments = jax.tree.map(jnp.ones_like, params)
    assert small.shrink_state({"mu": moments})["mu"]["layers"]["up"].shape == (4, 6, 4)
    structured.save(tmp_path / "small", small, X)
    found = structured.load(tmp_path / "small")
    np.testing.assert_allclose(found.apply(found.params, X), expected, rtol=1e-5, atol=1e-5)


def test_influence_is_measured_within_a_scan():
    params = stacks()
    params["layers"]["down"] = params["layers"]["down"].at[3].multiply(1e-3)
    fn = lambda p, x: scanned(p, x, layer=residual)[0]
    found = structured.influence(structured.trace(fn, params, X), params, X)
    split = params | {
        "layers": [jax.tree.map(lambda w, i=i: w[i], params["layers"]) for i in range(5)]
    }
    expected = structured.influence(structured.trace(_unrolled, split, X), split, X)
    assert min(found, key=found.get) == "layers[3]"
    for i in range(5):
        assert found[f"layers[{i}]"] == pytest.approx(expected[f"layers/{i}"], abs=1e-5)


def _unrolled(p, x):
    x = x @ p["embed"]
    for own in p["layers"]:
        x, _ = residual(x, own)
    return x @ p["head"]


def replaced(x, own):  # no short cut
    return jax.nn.relu(x @ own["up"] + own["bias"][None]) @ own["down"], None


def counted(carry, own):  # which turn it is counts
    x, i = carry
    return (x + i * residual(x, own)[0], i + 1), None


def normed(x, own):
    x = residual(x, own)[0]
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True), None


def told(x, own):
    x = residual(x, own)[0]
    return x, x


@pytest.mark.parametrize("layer", [replaced, counted, normed, told], ids=lambda f: f.__name__)
def test_turns_that_cannot_be_left_out_stay(layer):
    def fn(p, x):
        start = x @ p["embed"]
        carry = (start, 1.0) if layer is counted else start
        carry, rows = jax.lax.scan(layer, carry, p["layers"])
        return carry, rows

    params = stacks()
    params.pop("head")
    graph = structured.trace(fn, params, X)
    assert structured.blocks(graph) == ()
    assert graph.iterations == ()
    whole = jax.tree.map(lambda w: jnp.ones(w.shape, bool).at[1].set(False), params["layers"])
    masks = {"embed": None, "layers": whole}
    with pytest.raises(ValueError, match="nothing can be removed"):
        structured.shrink(graph, params, masks)


def test_a_map_is_no_loop_its_rows_are_units():
    """Experts that are mapped over one by one."""

    def fn(p, x):
        h = jax.lax.map(lambda w: jax.nn.relu(x @ w), p["experts"])  # [experts, examples, 8]
        return jnp.einsum("ebh,eho->bo", h, p["out"])

    params = {"experts": draw(6, 4, 8), "out": draw(6, 8, 2)}
    graph = structured.trace(fn, params, X)
    assert structured.blocks(graph) == ()
    assert sorted(group.size for group in graph.groups) == [6, 8]
    assert max(structured.verify(graph, params, X).values()) < 1e-5


def test_heads_that_a_loop_adds_up_are_left_out():
    def fn(p, x):
        head = lambda total, w: (total + jnp.tanh(x @ w[0]) @ w[1], None)
        stacked = (jnp.swapaxes(p["in"], 0, 1), p["out"])  # heads are the second axis of "in"
        return jax.lax.scan(head, jnp.zeros((len(x), 2)), stacked)[0]

    params = {"in": draw(4, 3, 5), "out": draw(3, 5, 2)}
    graph = structured.trace(fn, params, X)
    masks = structured.without_blocks(graph, structured.blocks(graph)[1].name)
    small = structured.shrink(graph, params, masks)
    assert jax.tree.map(jnp.shape, small.params) == {"in": (4, 2, 5), "out": (2, 5, 2)}
    expected = fn(jp.masks.apply(params, masks), X)
    np.testing.assert_allclose(small.apply(small.params, X), expected, rtol=1e-5)


def test_layers_of_flax_under_scan_and_remat():
    apply, params, x = model("scan and remat")
    graph = structured.trace(apply, params, x)
    found = structured.blocks(graph)
    assert len(found) == 3
    masks = structured.without_blocks(graph, found[1].name)
    small = structured.shrink(graph, params, masks)
    masked = apply(jp.masks.apply(params, masks), x)
    np.testing.assert_allclose(small.apply(small.params, x), masked, atol=2e-5)


def test_loops_within_loops():
    """Stages of layers: a layer goes from all stages at once."""

    def fn(p, x):
        stage = lambda x, own: jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, own)
        return jax.lax.scan(lambda x, own: (stage(x, own)[0], None), x, p["w"])[0]

    params = {"w": draw(2, 3, 4, 4)}
    graph = structured.trace(fn, params, X)
    inner = [b for b in structured.blocks(graph) if b.added == -1]
    assert len(inner) == 3
    masks = structured.without_blocks(graph, inner[2].name)
    small = structured.shrink(graph, params, masks)
    assert small.params["w"].shape == (2, 2, 4, 4)
    expected = fn(jp.masks.apply(params, masks), X)
    np.testing.assert_allclose(small.apply(small.params, X), expected, rtol=1e-5)


def decayed(x, w):  # moves towards what it adds, so with zeros it is no identity
    return x + 0.1 * (jnp.tanh(x @ w) - x), None


def gated(x, w):
    return x + x * jax.nn.sigmoid(x @ w), None


def gathered(x, own):  # reads another parameter by a row that is no parameter
    w, i = own
    return x + jnp.tanh(x @ w) + jnp.sin(x * B[i]), None


B = draw(5)


@pytest.mark.parametrize("layer", [decayed, gated, gathered], ids=lambda f: f.__name__)
def test_turns_that_do_something_without_their_weights_stay(layer):
    def fn(p, x):
        rows = (p["w"], jnp.arange(5)) if layer is gathered else p["w"]
        return jax.lax.scan(layer, x, rows)[0]

    graph = structured.trace(fn, {"w": draw(5, 4, 4)}, X)
    assert structured.blocks(graph) == ()


def test_flags_and_numbers_among_the_parameters_are_not_masked():
    """A turn that reads one does what it says, whatever the weights are."""
    flagged = lambda x, own: (x + jnp.where(~own["flag"], jnp.tanh(x @ own["w"]), 0.0), None)
    numbered = lambda x, own: (x + jnp.tanh(x @ own["w"]) + own["number"] * x, None)
    params = {"w": draw(3, 4, 4), "flag": jnp.array([False, True, False]), "number": jnp.arange(3)}
    found = {}
    for name, layer in (("flagged", flagged), ("numbered", numbered)):
        fn = lambda p, x, layer=layer: jax.lax.scan(layer, x, p)[0]
        found[name] = len(structured.blocks(structured.trace(fn, params, X)))
    assert found == {"flagged": 3, "numbered": 0}


def test_rows_that_are_read_after_the_loop_stay():
    def fn(p, x):
        step = lambda x, w: (x + jnp.tanh(x @ w), x)
        carry, rows = jax.lax.scan(step, x, p["w"])
        return carry + rows.sum(0)

    assert structured.blocks(structured.trace(fn, {"w": draw(5, 4, 4)}, X)) == ()
    softmax = lambda p, x: jax.lax.map(lambda w: jax.nn.softmax(x @ w), p["w"]).mean(0)
    assert structured.trace(softmax, {"w": draw(5, 4, 2)}, X).groups == ()


@pytest.mark.parametrize(
    ("stack", "order"),
    [
        (lambda w: (w[:2], w[2:]), (0, 1, 2, 3, 4)),
        (lambda w: (w[1:],), (1, 2, 3, 4)),
        (lambda w: (w[::-1],), (4, 3, 2, 1, 0)),
        (lambda w: (w.reshape(5, 4, 4),), (0, 1, 2, 3, 4)),
    ],
    ids=["two loops", "not the first", "reversed", "reshaped"],
)
def test_influence_finds_the_turn_whatever_is_scanned(stack, order):
    w = draw(5, 4, 4).at[3].multiply(1e-3)

    def loops(p, x):
        for part in stack(p["w"]):
            x, _ = jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), x, part)
        return x

    reshaped = stack(w.reshape(20, 4))[0].shape[0] == 5
    params = {"w": w.reshape(20, 4) if reshaped else w}
    found = structured.influence(structured.trace(loops, params, X), params, X)
    expected, x = {}, X
    for i in order:
        after = x + jnp.tanh(x @ w[i])
        cos = jnp.sum(x * after, -1) / jnp.linalg.norm(x, axis=-1) / jnp.linalg.norm(after, axis=-1)
        expected[f"w[{i}]"], x = 1 - float(cos.mean()), after
    assert found == pytest.approx(expected, abs=1e-5)


def test_influence_passes_over_what_it_cannot_measure():
    def fn(p, x):
        step = lambda total, w: (total + jnp.tanh(x @ w).sum(), None)
        total, _ = jax.lax.scan(step, jnp.zeros(()), p["w"])
        jax.debug.print("{}", total)
        return total + (x + jnp.tanh(x @ p["v"]))

    params = {"w": draw(3, 4, 4), "v": draw(4, 4)}
    graph = structured.trace(fn, params, X)
    assert [b.name for b in structured.blocks(graph)] == ["w[0]", "w[1]", "w[2]", "v"]
    assert list(structured.influence(graph, params, X)) == ["v"]


def test_all_turns_of_a_loop_can_go():
    def fn(p, x):
        x, _ = jax.lax.scan(residual, x, p["layers"])
        return jax.nn.relu(x @ p["up"]) @ p["down"]

    params = {
        "layers": {"up": draw(5, 4, 8), "bias": draw(5, 8), "down": draw(5, 8, 4)},
        "up": draw(4, 6),
        "down": draw(6, 2),
    }
    graph = structured.trace(fn, params, X)
    masks = structured.prune(graph, params, sparsity=0.5, only="^up")
    masks["layers"] = jax.tree.map(lambda w: jnp.zeros(w.shape, bool), params["layers"])
    small = structured.shrink(graph, params, masks)
    assert small.params["layers"]["up"].shape[0] == 0
    assert small.params["up"].shape == (4, 3)
    expected = fn(jp.masks.apply(params, masks), X)
    np.testing.assert_allclose(small.apply(small.params, X), expected, rtol=1e-5, atol=1e-6)


def test_what_is_printed_of_a_block_goes_with_it():
    def fn(p, x):
        h = jnp.tanh(x @ p["a"])
        jax.debug.print("{}", h.sum())
        return (x + h) @ p["b"]

    params = {"a": draw(4, 4), "b": draw(4, 2)}
    graph = structured.trace(fn, params, X)
    masks = structured.without_blocks(graph, "a")
    small = structured.shrink(graph, params, masks)
    np.testing.assert_allclose(small.apply(small.params, X), X @ params["b"], rtol=1e-6)
