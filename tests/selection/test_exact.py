"""Selection agrees with a stable sort, whatever the scores, their type and the transformation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

import jaxprune as jp
from jaxprune.selection import exact, top, top_along, top_each
from jaxprune.selection.ranks import order_key

SHAPES = [(64,), (300, 300), (), (0, 3), (3, 3, 4, 8), (5, 7)]  # 90,000 scores are not packed


def normal(rng, n):
    return rng.standard_normal(n)


def heavy_tails(rng, n):
    return rng.standard_cauchy(n) ** 3


def clusters(rng, n):
    return rng.choice([1.0, 1.0 + 1e-6, 1e30, -1e-30], n) * (1 + 1e-6 * rng.standard_normal(n))


def quantised(rng, n):
    return np.round(2 * rng.standard_normal(n))


def equal(rng, n):
    return np.full(n, -3.0)


def mostly_zero(rng, n):
    return np.where(rng.random(n) < 0.9, rng.choice([0.0, -0.0], n), rng.standard_normal(n))


def zero_at_the_end(rng, n):
    return np.where(np.arange(n) < n // 2, np.abs(rng.standard_normal(n)), 0.0)


def negative(rng, n):
    return -np.exp(4 * rng.standard_normal(n))


def holes(rng, n):
    return np.where(rng.random(n) < 0.3, rng.choice([np.nan, -np.inf, np.inf], n), normal(rng, n))


def denormal(rng, n):
    return 1e-42 * rng.standard_normal(n)


def sorted_already(rng, n):
    return np.linspace(1, -1, n)


DISTRIBUTIONS = [
    normal,
    heavy_tails,
    clusters,
    quantised,
    equal,
    mostly_zero,
    zero_at_the_end,
    negative,
    holes,
    denormal,
    sorted_already,
]


def stable_top(scores, k):
    """The k best of a vector by a stable sort; NaN last."""
    scores = np.asarray(scores, np.float32).astype(np.float64)
    order = np.lexsort((np.arange(scores.size), -np.nan_to_num(scores, nan=0.0), np.isnan(scores)))
    mask = np.zeros(scores.size, bool)
    mask[order[: max(0, min(k, scores.size))]] = True
    return mask


def flat(leaves):
    return np.concatenate([np.asarray(x).ravel() for x in leaves])


def split(scores, shapes, dtype=jnp.float32):
    ends = np.cumsum([int(np.prod(s)) for s in shapes])
    parts = np.split(np.asarray(scores, np.float32), ends[:-1])
    return [jnp.asarray(p.reshape(s), dtype) for p, s in zip(parts, shapes, strict=True)]


def ks(n):
    return [-1, 0, 1, 2, n // 10, n // 2, n - 1, n, n + 5]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_top_is_a_stable_sort(distribution):
    n = sum(int(np.prod(s)) for s in SHAPES)
    leaves = split(distribution(np.random.default_rng(0), n), SHAPES)
    for k in ks(n):
        masks = top(leaves, k)
        assert [m.shape for m in masks] == SHAPES
        np.testing.assert_array_equal(flat(masks), stable_top(flat(leaves), k), err_msg=f"{k=}")


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[:3]], ids=["rows", "one by one"])
def test_top_each_is_a_stable_sort_of_each_leaf(distribution, shapes):
    n = sum(int(np.prod(s)) for s in shapes)
    leaves = split(distribution(np.random.default_rng(0), n), shapes)
    for share in (-0.1, 0.0, 0.1, 0.5, 1.0, 1.1):
        wanted = [round(share * x.size) for x in leaves]
        for mask, x, k in zip(top_each(leaves, wanted), leaves, wanted, strict=True):
            assert mask.shape == x.shape
            np.testing.assert_array_equal(flat([mask]), stable_top(flat([x]), k), err_msg=f"{k=}")


def test_what_is_found_does_not_move():
    """None is asked of one leaf, beside infinite scores, while the search goes on for another."""
    rng = np.random.default_rng(4)
    leaves = [jnp.array([np.inf, 1.0, np.inf, -np.inf]), jnp.asarray(rng.random(5000), jnp.float32)]
    for k in (0, 1, 2, 3, 4):
        none, some = top_each(leaves, [k, 1234])
        np.testing.assert_array_equal(flat([none]), stable_top(flat([leaves[0]]), k))
        assert some.sum() == 1234


@pytest.mark.parametrize("leaves", [1, 2, 6])
def test_no_more_are_marked_than_may_be(leaves):
    allowed = [jnp.array([False, True, False, False])] * leaves
    found = top_each([jnp.arange(4.0)] * leaves, [3] * leaves, allowed)
    assert [mask.tolist() for mask in found] == [mask.tolist() for mask in allowed]
    together = top([jnp.arange(4.0)] * leaves, 3 * leaves, allowed)
    assert [mask.tolist() for mask in together] == [mask.tolist() for mask in allowed]


def test_equal_leaves_share_their_kernels():
    """A leaf more of a shape that is there is one more call, and no kernel; many of a shape are one loop."""

    def kernels(n):
        leaves = [jax.ShapeDtypeStruct((30, 50), jnp.float32)] * n
        text = jax.jit(lambda xs: top_each(xs, [3] * n)).lower(leaves).compile().as_text()
        of_leaf = text.count("to_apply=%_count_into")
        assert of_leaf == (1 if n > 20 else n if jax.default_backend() == "cpu" else 0)
        bodies = re.findall(r"^%_count_into\S* \(.*?^}", text, re.M | re.S)
        # Names and numbers apart, all bodies read the same.
        return {re.sub(r"\.\d+|metadata=\{[^}]*\}", "", body) for body in bodies}

    assert len(kernels(16)) <= 2 >= len(kernels(10))
    assert len(kernels(24)) <= 1


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere leaves are visited one by one"
)
@pytest.mark.parametrize("together", [False, True], ids=["each", "together"])
def test_many_leaves_are_searched_as_few_are(together):
    """Loops over equal leaves, more than one loop has branches for, mark what one search per leaf does."""
    rng = np.random.default_rng(3)
    shapes = [(3, 5)] * 70 + [(4, 7)] * 3 + [(6,)] * 20
    leaves = [jnp.array(rng.integers(0, 9, shape), jnp.float32) for shape in shapes]
    order = rng.permutation(len(leaves))
    leaves = [leaves[i] for i in order]
    allowed = [jnp.array(rng.random(leaf.shape) < 0.7) for leaf in leaves]
    if together:
        scores = flat([jnp.where(a, x, -1) for a, x in zip(allowed, leaves, strict=True)])
        np.testing.assert_array_equal(flat(top(leaves, 300, allowed)), stable_top(scores, 300))
        return
    ks = rng.integers(0, 3, len(leaves))
    for mask, leaf, k, a in zip(top_each(leaves, ks, allowed), leaves, ks, allowed, strict=True):
        k = min(int(k), int(a.sum()))
        expected = stable_top(flat([jnp.where(a, leaf, -1)]), k)
        np.testing.assert_array_equal(flat([mask]), expected)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("shape", "axis"), [((40, 4, 2), 1), ((60, 8), -1), ((3, 150, 5), 1)])
def test_top_along_is_a_stable_sort_of_each_slice(distribution, shape, axis):
    rng = np.random.default_rng(1)
    scores = distribution(rng, int(np.prod(shape))).astype(np.float32).reshape(shape)
    for k in ks(shape[axis]):
        expected = np.apply_along_axis(stable_top, axis, scores, k)
        np.testing.assert_array_equal(top_along(scores, k, axis), expected, err_msg=f"{k=}")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8])
def test_other_dtypes(dtype):
    scores = 8 * np.abs(normal(np.random.default_rng(2), 3000))
    leaves = split(scores, [(50, 50), (500,)], dtype)
    for k in ks(3000):
        np.testing.assert_array_equal(flat(top(leaves, k)), stable_top(flat(leaves), k))
    for axis in (0, 1):
        expected = np.apply_along_axis(stable_top, axis, np.asarray(leaves[0], np.float32), 7)
        np.testing.assert_array_equal(top_along(leaves[0], 7, axis), expected)


def test_leaves_of_several_dtypes_compete():
    leaves = [jnp.array([3, 1]), jnp.array([2.5, -1.0], jnp.bfloat16), jnp.array([2.0, 4.0])]
    assert [m.tolist() for m in top(leaves, 3)] == [[True, False], [True, False], [False, True]]


def test_nothing_to_choose_from():
    assert top([], 3) == []
    assert [m.shape for m in top([jnp.zeros((0, 3)), jnp.zeros(0)], 1)] == [(0, 3), (0,)]
    assert [m.shape for m in top_each([jnp.zeros((0, 3)), jnp.zeros(0)], [1, 2])] == [(0, 3), (0,)]
    assert top_along(jnp.zeros((0, 3)), 1, 0).shape == (0, 3)
    assert top_along(jnp.zeros((0, 99)), 1, 1).shape == (0, 99)


def test_order_key_orders_and_separates():
    values = np.float32([np.nan, -np.inf, -1e30, -1.0, -1e-45, 0.0, 1e-45, 1e-38, 1.0, np.inf])
    keys = np.asarray(order_key(jnp.asarray(values)))
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    assert order_key(jnp.float32(-0.0)) == order_key(jnp.float32(0.0))
    assert order_key(-jnp.float32(np.nan)) == order_key(jnp.float32(np.nan)) == -(2**31)


@pytest.mark.parametrize("shapes", [[(40, 10)], [(300, 300), (9,)]])
def test_k_may_differ_between_vmap_lanes(shapes):
    n = sum(int(np.prod(s)) for s in shapes)
    leaves = split(np.round(8 * normal(np.random.default_rng(3), n)), shapes)
    wanted = jnp.array([0, 5, n // 3, n])
    masks = jax.vmap(lambda k: top(leaves, k))(wanted)
    for lane, k in enumerate(wanted.tolist()):
        np.testing.assert_array_equal(flat([m[lane] for m in masks]), stable_top(flat(leaves), k))


def test_scores_and_k_may_differ_between_vmap_lanes():
    rng = np.random.default_rng(4)
    scores = np.round(4 * rng.standard_normal((3, 70, 6))).astype(np.float32)
    wanted = jnp.array([1, 3, 5])
    over_all = jax.vmap(lambda x, k: top([x], k)[0])(scores, wanted)
    for axis, size in ((0, 70), (1, 6)):
        along = jax.vmap(lambda x, k, axis=axis: top_along(x, k, axis))(scores, wanted)
        assert along.sum(1 + axis).tolist() == [[k] * (420 // size) for k in wanted.tolist()]
        expected = np.apply_along_axis(stable_top, axis, scores[1], 3)
        np.testing.assert_array_equal(along[1], expected)
    for lane, k in enumerate(wanted.tolist()):
        np.testing.assert_array_equal(over_all[lane].ravel(), stable_top(scores[lane].ravel(), k))


def test_inside_jit_and_scan():
    leaves = split(normal(np.random.default_rng(5), 1000), [(30, 30), (100,)])

    @jax.jit
    def shrink(leaves, ks):
        def step(leaves, k):
            masks = top(leaves, k)
            rows = top_along(leaves[0], k // 30, 1)
            return [jnp.where(m, x, -jnp.inf) for m, x in zip(masks, leaves, strict=True)], rows

        return jax.lax.scan(step, leaves, ks)

    final, rows = shrink(leaves, jnp.array([900, 500, 100]))
    np.testing.assert_array_equal(np.isfinite(flat(final)), stable_top(flat(leaves), 100))
    assert rows.sum(2).tolist() == [[30] * 30, [16] * 30, [3] * 30]


def test_k_changes_without_compiling():
    leaves = [jnp.arange(77.0)]
    top(leaves, 3), top_along(leaves[0], 3, 0)
    before = exact._top._cache_size(), exact.compare_slices._cache_size()
    for k in (5, np.int64(6), jnp.int32(7)):
        assert top(leaves, k)[0].sum() == top_along(leaves[0], k, 0).sum() == int(k)
    assert before == (exact._top._cache_size(), exact.compare_slices._cache_size())


def test_temporaries_stay_below_one_percent():
    leaves = (jax.ShapeDtypeStruct((4000, 2500), jnp.float32),)
    memory = jax.jit(top).lower(leaves, jnp.int32(5)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.01 * 4 * 4000 * 2500


def test_too_many_scores_are_refused():
    half = jax.ShapeDtypeStruct((2**30,), jnp.float32)
    with pytest.raises(ValueError, match=r"2147483648 scores compete.*layer by layer"):
        jax.eval_shape(lambda x: top([x, x], 1), half)


@pytest.mark.parametrize("method", [jp.methods.gmp, jp.methods.global_magnitude])
def test_a_search_makes_no_nan_on_the_way(method):
    """Whoever checks a step for NaN finds those of the weights alone."""
    tx = jp.sparsify(optax.sgd(0.1), method(sparsity=0.5, begin=0, end=2, every=1))
    params = {"w": jnp.arange(-40.0, 40.0).reshape(8, 10)}
    checked = checkify.checkify(tx.update, errors=checkify.float_checks)
    error, (_, state) = jax.jit(checked)(params, tx.init(params), params)
    assert error.get() is None
    assert int(jp.masks_of(state)["w"].sum()) == 80
