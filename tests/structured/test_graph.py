"""Hard cases of labels: what must not share a group, what must be pinned, what must go on for long."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import structured

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
X = draw(3, 6)


def grouped_norm(x, groups):
    y = x.reshape(len(x), groups, -1)
    y = y / jnp.sqrt(jnp.sum(y**2, -1, keepdims=True) + 1.0)
    return y.reshape(x.shape)


def exact(fn, params, *inputs):
    graph = structured.trace(fn, params, *inputs)
    found = structured.verify(graph, params, *inputs)
    assert len(found) == sum(group.size > 1 for group in graph.groups), "each has a name of its own"
    assert all(error < 1e-5 for error in found.values()), found
    return graph


def test_factors_of_equal_size_are_two_groups():
    fn = lambda p, x: grouped_norm(x @ p["w"], 4) @ p["o"]
    params = {"w": draw(6, 16), "o": draw(16, 2)}
    graph = exact(fn, params, X)
    assert [group.size for group in graph.groups] == [4, 4]
    masks = structured.prune(graph, params, sparsity=0.5)
    assert int(masks["w"].any(0).sum()) == 8, "half of one kind, not of both"


def test_branches_of_a_concatenation_are_independent():
    fn = lambda p, x: (
        jnp.concatenate([jax.nn.relu(x @ p["a"]), jax.nn.relu(x @ p["b"])], 1) @ p["o"]
    )
    params = {"a": draw(6, 8), "b": draw(6, 4), "o": draw(12, 2)}
    graph = exact(fn, params, X)
    masks = structured.prune(graph, params, sparsity=0.5)
    assert [int(masks[n].any(0).sum()) for n in "ab"] == [4, 2]


@pytest.mark.parametrize("inner", [2, 4])
def test_merges_that_overlap_in_part_are_pinned(inner):
    def fn(p, x):
        pieces = [grouped_norm(x @ p[n], inner) for n in "ab"]
        return grouped_norm(jnp.concatenate(pieces, 1), 4) @ p["o"]

    params = {"a": draw(6, 16), "b": draw(6, 16), "o": draw(32, 2)}
    graph = exact(fn, params, X)
    assert graph.solution.conflict_count or graph.groups


def test_reshapes_without_a_common_refinement_are_pinned():
    def fn(p, x):
        h = x @ p["w"]
        a = h.reshape(-1, 4, 6).sum(1)
        b = (h.reshape(-1, 6, 4) * p["s"][None, :, None]).sum(2)
        return (a + b) @ p["o"]

    params = {"w": draw(6, 24), "s": draw(6), "o": draw(6, 2)}
    graph = exact(fn, params, X)
    assert graph.solution.conflict_count
    assert "do not fit together" in graph.summary()


def test_deep_programs_of_refinements_end():
    def fn(p, x):
        for w, o in zip(p["w"], p["o"], strict=True):
            x = x + grouped_norm(grouped_norm(x @ w, 2), 4) @ o
        return x

    params = {"w": [draw(6, 16)] * 60, "o": [draw(16, 6)] * 60}
    params = jax.tree.map(jnp.copy, params)
    graph = structured.trace(fn, params, X)
    assert len(graph.groups) >= 60


@pytest.mark.parametrize(
    "fn",
    [
        lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["w"][0]) @ p["w"][1]) @ p["o"],
        lambda p, x: (x @ p["w"][0])[:, 0][:, None] * jnp.ones((1, 2)) + (x @ p["w"][1]) @ p["o"],
        lambda p, x: (lambda h: (h * jax.nn.sigmoid(h[:, :1])) @ p["o"])(x @ p["w"][0] @ p["w"][1]),
    ],
)
def test_slices_to_length_one_stay(fn):
    params = {"w": draw(2, 6, 6), "o": draw(6, 2)}
    graph = structured.trace(fn, params, X)
    assert not any(m.path == "w" and m.axis == 0 for g in graph.groups for m in g.members)
    for group in graph.groups:
        for unit in group.units[:2]:
            masks = structured.prune(
                graph, params, sparsity=0.5, only=lambda g, own=group: g is own
            )
            small = structured.shrink(graph, params, masks)
            expected = fn(jp.masks.apply(params, masks), X)
            np.testing.assert_allclose(small.apply(small.params, X), expected, atol=1e-5)
            del unit


def test_negative_scores_are_ranked_too():
    fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    params = {"a": draw(6, 4), "b": draw(4, 2)}
    graph = structured.trace(fn, params, X)
    negative = lambda params, **_: jax.tree.map(lambda w: -1.0 - jnp.abs(w), params)
    (found,) = structured.scores(graph, params, criterion=negative, reduce="max").values()
    assert (found < 0).all()
    assert len(set(found.tolist())) == 4
    masks = structured.prune(graph, params, criterion=negative, sparsity=0.5, scope="global")
    assert int(masks["a"].any(0).sum()) == 2
