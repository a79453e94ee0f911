from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.nn import KWinners, activation_sparsity, k_winners, lenet_300_100, n_of_m

NAN, INF = np.nan, np.inf


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def reference(x, keep, axes, size=lambda x: x):
    """Contest by contest, by a stable sort."""
    last = tuple(range(-len(axes), 0))
    moved = np.moveaxis(x, axes, last)
    rows = moved.reshape(-1, np.prod([x.shape[a] for a in axes]))
    kept = np.zeros_like(rows)
    for row, out in zip(rows, kept, strict=True):
        wins = np.argsort(-size(row), kind="stable")[:keep]
        out[wins] = row[wins]
    return np.moveaxis(kept.reshape(moved.shape), last, axes)


@pytest.mark.parametrize(
    ("given", "options", "wanted"),
    [
        ([1, 5, -7, 3, 2], {"sparsity": 0.6}, [0, 5, 0, 3, 0]),
        ([1, 5, -7, 3, 2], {"sparsity": 0.6, "by": "magnitude"}, [0, 5, -7, 0, 0]),
        ([2, 2, 2, 2], {"sparsity": 0.5}, [2, 2, 0, 0]),  # of equals the first
        ([0, 0, 3, 0], {"sparsity": 0.5}, [0, 0, 3, 0]),  # a zero is a winner, too
        ([-1, -3, -2, -4], {"sparsity": 0.5}, [-1, 0, -2, 0]),
        ([NAN, -INF, INF, NAN], {"sparsity": 0.5}, [0, -INF, INF, 0]),
        ([NAN, 1, 2], {"sparsity": 0.0}, [NAN, 1, 2]),
        ([1, 2, 3], {"sparsity": 0.5}, [0, 0, 3]),  # 1.5 go: half up
    ],
)
@pytest.mark.parametrize("straight_through", [False, True])
def test_winners_by_hand(given, options, wanted, straight_through):
    out = k_winners(jnp.array(given, float), straight_through=straight_through, **options)
    np.testing.assert_array_equal(out, np.array(wanted, np.float32))


@pytest.mark.parametrize(
    ("width", "sparsity", "dtype"),
    [(20, 0.9, kind) for kind in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32)]
    + [(300, 0.8, jnp.float32), (300, 0.5, jnp.bfloat16)],
)
def test_counts_are_exact_under_ties(width, sparsity, dtype):
    x = jnp.asarray(np.round(2 * normal(4, width)) + 100, dtype)  # nothing is zero
    out = k_winners(x, sparsity=sparsity)
    assert out.dtype == dtype
    keep = width - round(width * sparsity)
    assert ((out != 0).sum(1) == keep).all()
    np.testing.assert_array_equal(out, reference(np.asarray(x), keep, (1,)))


@pytest.mark.parametrize(
    ("axis", "axes", "by"),
    [
        (0, (0,), "magnitude"),
        ((1, 2), (1, 2), "value"),
        ((-1, 1), (1, 3), "magnitude"),
        ((3, 2, 1), (1, 2, 3), "value"),
    ],
)
def test_any_axes_compete(axis, axes, by):
    x = np.round(2 * normal(10, 4, 5, 6))
    n = int(np.prod([x.shape[a] for a in axes]))
    out = k_winners(x, sparsity=0.75, axis=axis, by=by)
    size = np.abs if by == "magnitude" else lambda x: x
    np.testing.assert_array_equal(out, reference(x, n - int(n * 0.75 + 0.5), axes, size))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("straight_through", [False, True])
def test_gradients_reach_winners_or_all(straight_through, dtype):
    f = partial(k_winners, sparsity=0.5, straight_through=straight_through)
    x = jnp.array([3.0, -INF, NAN, 1.0, 2.0, 0.0], dtype)
    weight = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(f(x) * weight)))(x)
    wanted = weight if straight_through else jnp.array([1.0, 0.0, 0.0, 4.0, 5.0, 0.0], dtype)
    assert grad.dtype == dtype
    np.testing.assert_array_equal(grad, wanted)
    _, pushed = jax.jvp(f, (x,), (weight,))
    np.testing.assert_array_equal(pushed, wanted)


@pytest.mark.parametrize("straight_through", [False, True])
def test_second_derivatives(straight_through):
    f = partial(k_winners, sparsity=0.5, straight_through=straight_through)
    loss = lambda x: jnp.sum(f(x) ** 3)
    x = jnp.array([3.0, 1.0, 2.0, -1.0])
    twice = jax.jit(jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) * jnp.arange(1.0, 5.0))))(x)
    np.testing.assert_array_equal(twice, [18.0, 0.0, 36.0, 0.0])  # 6 f(x) i: 0 where f(x) is 0
    np.testing.assert_array_equal(jax.jit(jax.hessian(loss))(x), np.diag([18.0, 0.0, 12.0, 0.0]))


@pytest.mark.parametrize(("straight_through", "width"), [(False, 40), (True, 10)])
def test_vmap_is_a_contest_per_example(straight_through, width):
    x = normal(5, 3, width)
    one = partial(k_winners, sparsity=0.8, axis=(0, 1), straight_through=straight_through)
    loss = lambda x: jnp.sum((one(x) + 1) ** 2)
    out, grads = jax.jit(lambda x: (jax.vmap(one)(x), jax.vmap(jax.grad(loss))(x)))(x)
    wanted = reference(x, 3 * width // 5, (1, 2))
    np.testing.assert_array_equal(out, wanted)
    reached = 1 if straight_through else wanted != 0
    np.testing.assert_allclose(grads, 2 * (wanted + 1) * reached, rtol=1e-6)


def test_a_traced_sparsity_needs_no_second_compilation():
    x = jnp.asarray(np.abs(normal(3, 30)) + 1)
    f = jax.jit(lambda x, s: k_winners(x, sparsity=s))
    for s in (0.0, 0.5, 0.9):
        assert ((f(x, jnp.float32(s)) == 0).sum(1) == round(30 * s)).all()
    assert f._cache_size() == 1


def test_no_rivals_no_winners():
    assert k_winners(jnp.ones((0, 4)), sparsity=0.5).shape == (0, 4)
    assert k_winners(jnp.ones((4, 0)), sparsity=0.5).shape == (4, 0)


class Net(nn.Module):
    """Two sparse layers, the second called twice."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(KWinners(sparsity=0.5, name="first")(x))
        inner = KWinners(sparsity=0.75, axis=(0, 1), by="magnitude", name="second")
        return inner(x) + inner(1 - x)


def test_the_layer_reports_what_it_got():
    x = jnp.array([[-1.0, -2.0, 3.0, 4.0], [-4.0, -3.0, -2.0, 5.0]])
    _, state = jax.jit(partial(Net().apply, {}, mutable=["intermediates"]))(x)
    # first: half; ReLU then leaves [0 0 3 4], [0 0 0 5]: the two best are kept, then of
    # [1 1 -2 -3], [1 1 1 -4] two again
    assert activation_sparsity(state) == {"first": 0.5, "second": 0.75}
    relu_first = nn.Sequential([nn.relu, KWinners(sparsity=0.5)])
    _, state = relu_first.apply({}, x, mutable=["intermediates"])
    assert activation_sparsity(state) == {"layers_1": 0.625}  # one winner is a zero


def test_the_layer_leaves_no_trace_unless_asked():
    model = Net()
    assert model.init(jax.random.key(0), jnp.ones((2, 4))) == {}
    out = model.apply({}, jnp.ones((2, 4)))
    assert out.shape == (2, 4)
    assert activation_sparsity({}) == {}
    counts = str(jax.make_jaxpr(partial(KWinners(sparsity=0.5).apply, {}))(jnp.ones((2, 4))))
    assert counts == str(jax.make_jaxpr(partial(k_winners, sparsity=0.5))(jnp.ones((2, 4))))


def test_other_intermediates_are_not_taken_for_reports():
    _, state = Net().apply({}, jnp.ones((2, 4)), capture_intermediates=True)
    assert set(activation_sparsity(state)) == {"first", "second"}


def test_lenet_with_sparse_activations():
    images = jnp.asarray(normal(8, 28, 28, 1))
    dense, sparse = lenet_300_100(), lenet_300_100(activation_sparsity=0.9)
    shapes, same = (
        jax.eval_shape(model.init, jax.random.key(0), images) for model in (dense, sparse)
    )
    assert shapes == same
    variables = jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)
    _, state = jax.jit(partial(sparse.apply, mutable=["intermediates"]))(variables, images)
    assert activation_sparsity(state) == pytest.approx({"winners1": 0.9, "winners2": 0.9})
    none = lenet_300_100(activation_sparsity=0.0)
    programs = [str(jax.make_jaxpr(model.apply)(variables, images)) for model in (dense, none)]
    assert programs[0] == programs[1]
    assert "while" not in programs[0]  # no search


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity=1.0 is not in \[0, 1\)"),
        ({"sparsity": -0.1}, r"sparsity=-0.1 is not in \[0, 1\)"),
        ({"sparsity": NAN}, r"sparsity=nan is not in \[0, 1\)"),
        ({"sparsity": 0.9}, "leaves none of 4 rivals"),
        ({"sparsity": 0.5, "axis": 2}, r"axis=2 names 2, .* shape \(3, 4\) have the axes \[0, 1\]"),
        ({"sparsity": 0.5, "axis": (0, -3)}, r"axis=\(0, -3\) names -3"),
        ({"sparsity": 0.5, "axis": ()}, "names no axis"),
        ({"sparsity": 0.5, "axis": (1, -1)}, "twice"),
        ({"sparsity": 0.5, "by": "size"}, "by='size' must be 'value' or 'magnitude'"),
    ],
)
def test_impossible_settings_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        k_winners(jnp.ones((3, 4)), **options)
    with pytest.raises(ValueError, match=message):
        jax.jit(KWinners(**options).apply)({}, jnp.ones((3, 4)))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (4, 4), (3, 8)])
def test_n_of_each_m_win(n, m, axis):
    x = jax.random.normal(jax.random.key(0), (8, 16, 8))
    kept = n_of_m(x, n, m, axis=axis)
    groups = jnp.moveaxis(kept, axis, -1).reshape(-1, m)
    assert ((groups != 0).sum(1) == n).all()
    assert (jnp.where(kept != 0, kept, x) == x).all()
    before = jnp.abs(jnp.moveaxis(x, axis, -1).reshape(-1, m))
    losers = jnp.where(groups == 0, before, 0).max(1)
    assert (losers <= jnp.where(groups != 0, before, jnp.inf).min(1)).all()


@pytest.mark.parametrize(
    ("n", "m", "message"),
    [(0, 4, "from 1 to m winners"), (5, 4, "from 1 to m"), (2, 5, r"\(3, 8\).*multiple of 5")],
)
def test_groups_that_do_not_fit_are_refused(n, m, message):
    with pytest.raises(ValueError, match=message):
        n_of_m(jnp.ones((3, 8)), n, m)


def test_the_lowest_integer_is_the_largest_in_size():
    x = jnp.array([1, -128, 2, 127], jnp.int8)
    assert k_winners(x, sparsity=0.5, axis=np.int64(0), by="magnitude").tolist() == [
        0,
        -128,
        0,
        127,
    ]
    assert n_of_m(x, 1, 4).tolist() == [0, -128, 0, 0]


def test_a_share_of_a_winner_is_refused():
    with pytest.raises(ValueError, match=r"n_of_m\(n=1.5, m=4\): integers are needed"):
        n_of_m(jnp.arange(8.0), 1.5, 4)
