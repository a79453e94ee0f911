"""Codebooks: k-means of sorted numbers, and values that are trained together."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

import jaxprune as jp
from jaxprune import quantise


def network(seed=0):
    rng = np.random.default_rng(seed)
    weights = {"a": {"kernel": rng.normal(size=(30, 20)), "bias": rng.normal(size=20)}}
    weights["b"] = {"kernel": rng.normal(size=(20, 5))}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights)
    return jp.prune(params, jp.methods.magnitude(sparsity=0.7))


def test_two_values_are_the_best_split_of_all():
    params, masks = {"w": jnp.array([0.1, 0.2, 0.9, 1.1, 1.3, -5.0])}, None
    masks = {"w": jnp.array([True] * 5 + [False])}
    book = quantise.codebooks(params, masks, bits=2)["w"]
    values = np.asarray(book.values)[np.asarray(book.indices)]
    weights = np.asarray(params["w"])[:5]
    ours = ((values[:5] - weights) ** 2).sum()
    splits = itertools.combinations(range(1, 5), 2)
    cost = lambda parts: sum(((p - p.mean()) ** 2).sum() for p in parts)
    best = min(cost(np.split(np.sort(weights), list(split))) for split in splits)
    assert ours == pytest.approx(best, abs=1e-6)
    assert values[5] == 0


@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_no_weight_is_nearer_to_another_value_and_values_are_means(start):
    params, masks = network()
    books = quantise.codebooks(params, masks, bits=4, start=start, key=jax.random.key(0))
    for name in "ab":
        book, mask = books[name]["kernel"], np.asarray(masks[name]["kernel"])
        weights, indices = np.asarray(params[name]["kernel"]), np.asarray(book.indices)
        values = np.asarray(book.values, np.float64)
        assert (indices == 0).tolist() == (~mask).tolist()
        used = np.unique(indices[mask])
        distance = abs(weights[mask][:, None] - values[used])
        own = abs(weights[mask] - values[indices[mask]])
        assert (own <= distance.min(1) + 1e-6).all()
        for index in used:
            assert values[index] == pytest.approx(weights[indices == index].mean(), abs=1e-6)


def test_more_bits_err_less():
    params, masks = network()
    errors = []
    for bits in (1, 2, 4, 8):
        coded = quantise.dense(quantise.codebooks(params, masks, bits=bits), params)
        errors.append(float(jnp.sum((coded["a"]["kernel"] - params["a"]["kernel"]) ** 2)))
    assert sorted(errors, reverse=True) == errors
    assert errors[-1] < 0.01 * errors[0]


def test_bits_by_name_and_leaves_without_masks():
    params, masks = network()
    books = quantise.codebooks(params, masks, bits={"a/": 6, "kernel": 3})
    assert (books["a"]["kernel"].bits, books["b"]["kernel"].bits) == (6, 3)
    assert books["a"]["bias"] is None
    assert quantise.dense(books, params)["a"]["bias"] is params["a"]["bias"]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"bits": 0}, ValueError, "from 1 to 8"),
        ({"bits": 9}, ValueError, "from 1 to 8"),
        ({"bits": 2.5}, ValueError, "from 1 to 8"),
        ({"bits": {"nothing": 4}}, ValueError, "none of bits="),
        ({"bits": True}, ValueError, "from 1 to 8"),
        ({"bits": {"kernel": 4, "convolution": 8}}, ValueError, "'convolution' matches none"),
        ({"bits": 4, "iterations": 1.5}, TypeError, "iterations=1.5"),
        ({"bits": 4, "iterations": -1}, ValueError, "0 or more"),
        ({"bits": 4, "key": 0}, TypeError, r"jax.random.key\(0\)"),
        ({"bits": 4, "start": "even"}, ValueError, '"linear"'),
        ({"bits": 4, "start": "random"}, TypeError, "give key="),
    ],
)
def test_what_is_refused(options, error, says):
    params, masks = network()
    with pytest.raises(error, match=says):
        quantise.codebooks(params, masks, **options)


def test_nan_is_refused_and_named():
    params, masks = network()
    params["b"]["kernel"] = params["b"]["kernel"].at[0, 0].set(jnp.nan)
    masks["b"]["kernel"] = masks["b"]["kernel"].at[0, 0].set(True)
    with pytest.raises(ValueError, match="b/kernel"):
        quantise.codebooks(params, masks, bits=4)


def test_values_are_trained_together():
    params, masks = network()
    books = quantise.codebooks(params, masks, bits=3)
    params = quantise.dense(books, params)
    tx = quantise.shared(optax.adam(1e-2), books)
    x = jax.random.normal(jax.random.key(1), (16, 30))

    def loss(p):
        h = jnp.tanh(x @ p["a"]["kernel"] + p["a"]["bias"][None])
        return jnp.mean((h @ p["b"]["kernel"] - 1) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    before, state = loss(params), tx.init(params)
    start = params
    for _ in range(30):
        params, state = step(params, state)
    assert loss(params) < 0.7 * before
    assert not jnp.array_equal(start["a"]["bias"], params["a"]["bias"])
    after = quantise.updated(books, params)  # refuses weights of one index that differ
    for name in "ab":
        assert not jnp.any(params[name]["kernel"][~masks[name]["kernel"]])
        assert len(np.unique(params[name]["kernel"])) <= 8
        assert jnp.array_equal(after[name]["kernel"].indices, books[name]["kernel"].indices)


def test_codebooks_fit_the_same_names_in_other_containers():
    params, masks = network()
    books = quantise.codebooks(params, masks, bits=2)
    frozen = FrozenDict(params)
    assert quantise.report(frozen, books) == quantise.report(params, books)
    coded = quantise.dense(books, frozen)
    assert isinstance(coded, FrozenDict)
    tx = quantise.shared(optax.sgd(0.1), books)
    updates, _ = tx.update(coded, tx.init(coded), coded)
    quantise.updated(books, optax.apply_updates(coded, updates))


def test_a_values_gradient_is_the_sum_over_its_weights():
    params, masks = network()
    books = quantise.codebooks(params, masks, bits=2)
    params = quantise.dense(books, params)
    grads = jax.tree.map(lambda x: jnp.cos(7 * x + 1), params)
    tx = quantise.shared(optax.sgd(1.0), books)
    updates, _ = tx.update(grads, tx.init(params), params)
    book, own = books["a"]["kernel"], np.asarray(grads["a"]["kernel"])
    for index in np.unique(book.indices):
        at = np.asarray(book.indices) == index
        expected = -own[at].sum() if index else 0.0
        np.testing.assert_allclose(np.asarray(updates["a"]["kernel"])[at], expected, rtol=1e-5)
    assert jnp.array_equal(updates["a"]["bias"], -grads["a"]["bias"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_sum_of_many_narrow_gradients_loses_none(dtype):
    book = quantise.Codebook(jnp.ones(4096, jnp.uint8), jnp.array([0.0, 2.0]))
    params, grads = {"w": jnp.full(4096, 2, dtype)}, {"w": jnp.ones(4096, dtype)}
    tx = quantise.shared(optax.sgd(1.0), {"w": book})
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["w"].dtype == dtype
    assert (updates["w"] == -4096).all()


def test_weights_that_something_else_changed_are_not_read_as_values():
    params, masks = network()
    books = quantise.codebooks(params, masks, bits=2)
    with pytest.raises(ValueError, match=r"a/kernel.*with one index differ"):
        quantise.updated(books, params)
    tx = quantise.shared(optax.sgd(1.0), books)
    with pytest.raises(ValueError, match=r"a/kernel.*with one index differ.*begin with.*dense"):
        tx.init(params)
    state = tx.init(quantise.dense(books, params))
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, state)


def test_codebooks_of_other_shapes_are_refused_by_name():
    params = {"a": {"kernel": jnp.ones((4, 5))}}
    books = {"a": {"kernel": quantise.Codebook(jnp.ones((2, 3), jnp.uint8), jnp.arange(2.0))}}
    for function in (
        lambda: quantise.dense(books, params),
        lambda: quantise.updated(books, params),
        lambda: quantise.report(params, books),
        lambda: quantise.shared(optax.sgd(0.1), books).init(params),
    ):
        with pytest.raises(ValueError, match=r"'a/kernel' has the shape \(2, 3\).*\(4, 5\)"):
            function()


def test_numbers_of_bits_may_be_numpys():
    params, masks = network()
    assert quantise.codebooks(params, masks, bits=np.int64(3))["a"]["kernel"].bits == 3
