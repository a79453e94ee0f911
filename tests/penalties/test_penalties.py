import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import jaxprune as jp
from jaxprune import patterns, penalties

DENSE, CONV, HEADS = {"a": (3, 4), "b": (2, 6)}, {"a": (2, 2, 3, 4)}, {"a": (4, 3, 2)}
UNITS = {"in": (3, 4), "bias": (4,), "out": (2, 4, 2)}
COUPLING = [{"in": -1, "bias": 0, "out": 1}]


def numbered(*kept):
    """Per leaf, the numbers of the groups, one for each index of these axes."""

    def of(shape):
        sides = [n if i in kept else 1 for i, n in enumerate(shape)]
        return np.broadcast_to(np.arange(np.prod(sides)).reshape(sides), shape)

    return of


def blocks(shape):
    return np.arange(np.prod(shape) // 3).reshape(shape[0], -1).repeat(3, 1)[:, : shape[1]]


# Name: penalty of a strength, shapes of its leaves, numbers of the groups in a leaf.
RIDGE = 0.8
CASES = {
    "l1": (penalties.l1, DENSE, numbered(0, 1)),
    "l0": (penalties.l0, DENSE, numbered(0, 1)),
    "elastic": (functools.partial(penalties.elastic, ridge=RIDGE), DENSE, numbered(0, 1)),
    "group_l2, rows": (functools.partial(penalties.group_l2, axis=-1), DENSE, numbered(0)),
    "group_l2, columns": (functools.partial(penalties.group_l2, axis=-2), DENSE, numbered(1)),
    "group_l2, filters": (functools.partial(penalties.group_l2, axis=(0, 1, 2)), CONV, numbered(3)),
    "group_l2, heads": (functools.partial(penalties.group_l2, axis=(0, 2)), HEADS, numbered(1)),
    "group_l2, blocks": (
        functools.partial(penalties.group_l2, pattern=patterns.block((1, 3))),
        {"a": (3, 6), "b": (2, 3)},
        blocks,
    ),
    "group_l2, channels": (
        functools.partial(penalties.group_l2, pattern=patterns.channel(1)),
        HEADS,
        numbered(1),
    ),
    "coupled": (functools.partial(penalties.coupled, groups=COUPLING), UNITS, None),
}
FEW = ["l1", "l0", "group_l2, rows", "group_l2, blocks", "coupled"]  # one of each way to compute
CONVEX = [name for name in CASES if name != "l0"]


def groups(name):
    """The places of each group in the vector of all weights."""
    _, shapes, number = CASES[name]
    if number is None:
        axes = {path: axis % len(shapes[path]) for path, axis in COUPLING[0].items()}
        labels = [numbered(axes[path])(shape).ravel() for path, shape in shapes.items()]
    else:
        labels = [1000 * i + number(shape).ravel() for i, shape in enumerate(shapes.values())]
    labels = np.concatenate(labels)
    return [np.nonzero(labels == group)[0] for group in np.unique(labels)]


def defined(name, strength):
    """The penalty as it is defined, of a vector in float64."""
    if name == "l0":
        return lambda w: strength * (w != 0).sum()
    places, ridge = groups(name), RIDGE if name == "elastic" else 0.0

    def value(w):
        norms = sum(np.sqrt(len(g)) * np.linalg.norm(w[g]) for g in places)
        return strength * norms + ridge / 2 * (w**2).sum()

    return value


def draw(shapes, seed, spread=1.0):
    rng = np.random.default_rng(seed)
    return {
        path: jnp.asarray(rng.normal(size=shape) * np.exp(spread * rng.normal(size=shape)), "f4")
        for path, shape in shapes.items()
    }


def sizes_of(shapes, kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "one":
        return 0.7
    if kind == "one per leaf":
        return {path: jnp.float32(rng.uniform(0.2, 2.0)) for path in shapes}
    return {path: jnp.asarray(10 ** rng.uniform(-2, 1, s), "f4") for path, s in shapes.items()}


def flat(leaves, shapes):
    """One float64 vector of leaves, or of what there is for each of them."""
    of = lambda path: leaves[path] if isinstance(leaves, dict) else leaves
    return np.concatenate(
        [np.broadcast_to(np.asarray(of(p), float), s).ravel() for p, s in shapes.items()]
    )


@functools.cache
def prox_of(name):
    """(leaves, sizes, strength) -> leaves, compiled once for all tests."""
    make = CASES[name][0]
    return jax.jit(lambda leaves, sizes, strength: make(strength).prox(leaves, sizes, 0))


def test_every_penalty_has_a_case():
    assert {name.split(",")[0] for name in CASES} == set(penalties.__all__)


@pytest.mark.parametrize("kind", ["one", "one per leaf", "one per weight"])
@pytest.mark.parametrize("name", CASES)
def test_the_proximal_step_is_where_its_objective_is_least(name, kind):
    """By the conditions that hold there and, as it is convex, nowhere else; without convexity by search."""
    _, shapes, _ = CASES[name]
    ridge, zeros = RIDGE if name == "elastic" else 0.0, []
    for seed, strength in enumerate((0.05, 0.3, 2.0, 80.0)):
        leaves, sizes = draw(shapes, seed), sizes_of(shapes, kind, seed)
        w = flat(prox_of(name)(leaves, sizes, strength), shapes)
        v, eta = flat(leaves, shapes), flat(sizes, shapes)
        value = defined(name, strength)
        loss = lambda w, v=v, eta=eta, value=value: value(w) + ((w - v) ** 2 / (2 * eta)).sum()
        rng = np.random.default_rng(seed)
        nearby = [w * (1 + 0.03 * rng.normal(size=v.size)) for _ in range(20)]
        assert loss(w) <= min(map(loss, (0 * v, v, *nearby))) * (1 + 1e-6)
        if name == "l0":
            grid = np.linspace(0.0, 1.0, 1001)[:, None] * v
            losses = strength * (grid != 0) + (grid - v) ** 2 / (2 * eta)
            assert np.allclose(w, np.take_along_axis(grid, losses.argmin(0)[None], 0)[0])
        for group in groups(name) if name != "l0" else ():
            pull = (v[group] - w[group]) / eta[group] - ridge * w[group]
            norm, most = np.linalg.norm(w[group]), strength * np.sqrt(len(group))
            if norm:
                assert np.allclose(pull, most * w[group] / norm, rtol=1e-3, atol=1e-4 * most)
            else:
                assert np.linalg.norm(pull) <= most * (1 + 1e-6)
        zeros.append(w == 0)
    assert 0 < np.mean(zeros) < 1, "the cases must have both"


def test_a_group_of_two_against_brute_force():
    v, eta = np.array([2.0, -0.7]), np.array([0.3, 2.0])
    side = np.linspace(0, 1, 2001)
    a, b = np.meshgrid(v[0] * side, v[1] * side, indexing="ij")
    losses = 0.4 * np.sqrt(2) * np.hypot(a, b)
    losses += (a - v[0]) ** 2 / (2 * eta[0]) + (b - v[1]) ** 2 / (2 * eta[1])
    best = np.unravel_index(losses.argmin(), losses.shape)
    group = penalties.group_l2(0.4, axis=-1)
    row = lambda x: {"w": jnp.asarray(x, jnp.float32)[None]}
    found = jax.jit(group.prox)(row(v), row(eta), 0)["w"][0]
    assert np.allclose(found, v * side[list(best)], atol=2e-3)
    assert (found != 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_group_norms_are_exact_whatever_the_step_sizes(seed):
    """Against bisection in float64, on groups of weights and steps that differ by many decades."""
    rng = np.random.default_rng(seed)
    v = 10 ** rng.uniform(-4, 0, (200, 9)) * rng.choice([-1, 1, 0], (200, 9), p=[0.45, 0.45, 0.1])
    eta = 10 ** rng.uniform(-9, 2, (200, 1)) * 10 ** rng.uniform(-4, 2, (200, 9))
    eta = np.where(rng.random((200, 9)) < 0.1, 0.0, eta).astype("f4")
    v, pull = v.astype("f4").astype(float), 3.0 * 0.5 * eta.astype(float)
    prox = jax.jit(lambda v, e: penalties.group_l2(0.5, axis=-1).prox({"w": v}, {"w": e}, 0)["w"])
    found = np.asarray(prox(jnp.asarray(v, "f4"), eta))
    alive = 0
    for w, x, c in zip(found, v, pull, strict=True):
        ratio = lambda r, x=x, c=c: np.where(x == 0, 0.0, x / np.where(x == 0, 1.0, r + c))
        excess = lambda r, ratio=ratio: (ratio(r) ** 2).sum() - 1
        with np.errstate(divide="ignore"):
            dead = excess(0.0) <= 0
        if dead:
            assert (w == 0).all()
            continue
        r = optimize.brentq(excess, 1e-30, np.linalg.norm(x) * 1.01, xtol=1e-30, rtol=1e-12)
        kept = np.where(c == 0, 1.0, r / (r + c))
        assert np.allclose(w, x * kept, rtol=2e-4, atol=0)
        assert (w[c == 0] == x[c == 0]).all()
        alive += 1
    assert 20 < alive < 200


@pytest.mark.parametrize("name", ["group_l2, rows", "group_l2, blocks", "coupled"])
def test_equal_steps_by_weight_are_one_step_size(name):
    _, shapes, _ = CASES[name]
    leaves = draw(shapes, 3)
    one = prox_of(name)(leaves, 0.7, 0.4)
    by_weight = prox_of(name)(
        leaves, {path: jnp.full(s, 0.7, "f4") for path, s in shapes.items()}, 0.4
    )
    for path in shapes:
        assert jnp.allclose(one[path], by_weight[path], rtol=1e-5)
        assert ((one[path] == 0) == (by_weight[path] == 0)).all()


def test_groups_of_one_weight_are_single_weights():
    leaves, sizes = draw({"w": (7, 1)}, 0), sizes_of({"w": (7, 1)}, "one per weight", 0)
    both = penalties.group_l2(0.5, axis=-1), penalties.l1(0.5)
    for size in (0.3, sizes):
        found, wanted = (jax.jit(p.prox)(leaves, size, 0)["w"] for p in both)
        assert jnp.allclose(found, wanted, atol=1e-6)
        assert ((found == 0) == (wanted == 0)).all()
    values = (p.value(leaves, 0) for p in both)
    assert jnp.allclose(*values)


def test_patterns_and_axes_name_the_same_groups():
    leaves = draw(HEADS, 1)
    for size in (0.5, sizes_of(HEADS, "one per weight", 1)):
        by_axis, by_pattern = (
            prox_of(f"group_l2, {name}")(leaves, size, 0.3)["a"] for name in ("heads", "channels")
        )
        assert jnp.allclose(by_axis, by_pattern, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_values_are_as_defined(name):
    make, shapes, _ = CASES[name]
    leaves = {path: jnp.asarray(np.where(w > 2, 0, w)) for path, w in draw(shapes, 5).items()}
    value = jax.jit(make(0.3).value)(leaves, 0)
    assert value.dtype == jnp.float32
    assert value.shape == ()
    assert np.isclose(float(value), defined(name, 0.3)(flat(leaves, shapes)), rtol=1e-5)


@pytest.mark.parametrize("name", CONVEX)
def test_subgradients_are_slopes(name):
    make, shapes, _ = CASES[name]
    leaves, value = draw(shapes, 6, spread=0.3), defined(name, 0.3)
    slope = jax.jit(make(0.3).subgradient)
    found = flat(slope(leaves, 0), shapes)
    x, steps = flat(leaves, shapes), 1e-6 * np.eye(len(found))
    wanted = [value(x + s) - value(x - s) for s in steps]
    assert np.allclose(found, np.array(wanted) / 2e-6, atol=1e-4)
    zero = slope({path: jnp.zeros(shape, "f4") for path, shape in shapes.items()}, 0)
    assert all((g == 0).all() for g in zero.values())


@pytest.mark.parametrize("name", CONVEX)
def test_the_gradient_of_the_value_is_the_subgradient_at_zero_too(name):
    make, shapes, _ = CASES[name]
    penalty = make(0.3)
    leaves = {path: jnp.zeros(shape).at[..., 0].set(2.0) for path, shape in shapes.items()}
    found = jax.grad(penalty.value)(leaves, 0)
    np.testing.assert_allclose(
        flat(found, shapes), flat(penalty.subgradient(leaves, 0), shapes), rtol=1e-6
    )


def test_l0_has_no_subgradient():
    assert penalties.l0(0.1).subgradient is None


@pytest.mark.parametrize("kind", ["one", "one per weight"])
@pytest.mark.parametrize("name", CASES)
def test_no_strength_or_no_step_changes_nothing(name, kind):
    _, shapes, _ = CASES[name]
    weights, sizes = draw(shapes, 7), sizes_of(shapes, kind, 7)
    none = jax.tree.map(lambda s: s * 0.0, sizes)
    for scale in (1.0, 1e-30):  # and the squares of these are 0
        leaves = jax.tree.map(lambda w, scale=scale: w * scale, weights)
        idle = [prox_of(name)(leaves, none, 0.5)]
        if name != "elastic":  # whose ridge is left
            idle.append(prox_of(name)(leaves, sizes, 0.0))
        for found in idle:
            assert all((found[path] == leaves[path]).all() for path in shapes)


@pytest.mark.parametrize("kind", ["one", "one per weight"])
@pytest.mark.parametrize("name", CONVEX)
def test_convex_steps_bring_points_no_further_apart(name, kind):
    _, shapes, _ = CASES[name]
    sizes = sizes_of(shapes, kind, 8)
    eta, prox = flat(sizes, shapes), lambda v: prox_of(name)(v, sizes, 0.5)
    for seed in range(10):
        v = draw(shapes, seed)
        u = jax.tree.map(lambda a, b: a + 0.3 * b, v, draw(shapes, 100 + seed))
        apart = lambda a, b: np.sqrt(((flat(a, shapes) - flat(b, shapes)) ** 2 / eta).sum())
        assert apart(prox(v), prox(u)) <= apart(v, u) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("kind", ["one", "one per weight"])
@pytest.mark.parametrize("name", FEW)
def test_zeros_are_exact_and_dtypes_kept(name, kind, dtype):
    (_, shapes, _), prox = CASES[name], prox_of(name)
    wide = draw(shapes, 9)
    leaves = {path: w.astype(dtype) for path, w in wide.items()}
    sizes = sizes_of(shapes, kind, 9)
    all_dead = prox(leaves, jax.tree.map(lambda s: s + 1.0, sizes), 1e3)
    for path in shapes:
        assert all_dead[path].dtype == dtype
        assert (all_dead[path] == 0).all()
        assert not jnp.signbit(all_dead[path]).any()
    if dtype != jnp.float32:
        rounded = {path: w.astype(jnp.float32) for path, w in leaves.items()}
        wanted, found = prox(rounded, sizes, 0.3), prox(leaves, sizes, 0.3)
        assert all((found[p] == wanted[p].astype(dtype)).all() for p in shapes), "in float32"


@pytest.mark.parametrize("kind", ["one", "one per weight"])
@pytest.mark.parametrize("name", CASES)
def test_a_nan_is_not_hidden_by_a_zero(name, kind):
    _, shapes, _ = CASES[name]
    leaves = jax.tree.map(lambda w: w.at[(0,) * w.ndim].set(jnp.nan), draw(shapes, 10))
    found = prox_of(name)(leaves, sizes_of(shapes, kind, 10), 100.0)
    assert all(jnp.isnan(w[(0,) * w.ndim]) for w in found.values())


@pytest.mark.parametrize("name", FEW)
def test_strengths_follow_schedules_and_can_be_mapped(name):
    make, shapes, _ = CASES[name]
    leaves, warm = draw(shapes, 11), make(lambda step: 0.1 * step)
    prox = jax.jit(lambda leaves, step: warm.prox(leaves, 0.5, step))
    strengths = 0.1 * jnp.arange(5.0)
    mapped = jax.jit(jax.vmap(lambda s: make(s).prox(leaves, 0.5, 0)))(strengths)
    for step in (1, 4):
        now = prox(leaves, jnp.int32(step))
        fixed = prox_of(name)(leaves, 0.5, 0.1 * step)
        for path in shapes:
            assert jnp.allclose(now[path], fixed[path], atol=1e-6)
            assert jnp.allclose(now[path], mapped[path][step], atol=1e-6)
        assert jnp.allclose(warm.value(leaves, step), make(0.1 * step).value(leaves, 0))


def test_a_chosen_case_by_hand():
    """The norm of (3, 4) is 5; the size of the group counts as its root, 2 for four weights."""
    v = {"w": jnp.array([[3.0, 4.0, 0.0, 0.0]])}
    assert penalties.group_l2(0.5, axis=-1).value(v, 0) == 5.0
    slope = penalties.group_l2(0.5, axis=-1).subgradient(v, 0)["w"]
    assert jnp.allclose(slope, jnp.array([[0.6, 0.8, 0.0, 0.0]]))


def test_what_does_not_fit_is_said():
    group = penalties.group_l2
    assert "'w' has the shape (3, 4)" in group(0.1, axis=(0, 1, 2)).check({"w": (3, 4)})
    assert "each once" in group(0.1, axis=(0, -2)).check({"w": (3, 4)})
    assert group(0.1, axis=(0, 1)).check({"w": (3, 4)}) is None
    assert "'w' has the shape (3, 4)" in group(0.1, pattern=patterns.block((2, 2))).check(
        {"w": (3, 4)}
    )
    assert "l1 for single weights" in group(0.1, pattern=patterns.unstructured()).check(
        {"w": (3, 4)}
    )
    with pytest.raises(ValueError, match="single weights compete"):
        group(0.1, pattern=patterns.groups(4))
    for reduce in ("mean", "max"):
        with pytest.raises(ValueError, match=rf"reduce='{reduce}'\)\): a norm is of the sum"):
            group(0.1, pattern=patterns.block((2, 2), reduce=reduce))
    with pytest.raises(ValueError, match="one of axis= and pattern= is needed"):
        group(0.1)
    with pytest.raises(ValueError, match="one of axis= and pattern= is needed"):
        group(0.1, axis=0, pattern=patterns.channel())
    coupled = penalties.coupled(0.1, [{"a": -1, "b": 0}])
    assert "'b' is none of the leaves 'a'" in coupled.check({"a": (3, 4)})
    assert "not 4 in 'a', 5 in 'b'" in coupled.check({"a": (3, 4), "b": (5,)})
    assert "'b' has the shape () and no axis 0" in coupled.check({"a": (3, 4), "b": ()})
    with pytest.raises(ValueError, match="'k' in more than one coupling"):
        penalties.coupled(0.1, [{"a": -1, "k": 0}, {"k": 1}])
    with pytest.raises(ValueError, match="no leaf is named"):
        penalties.coupled(0.1, [])


STACKED = {"layers": jp.Axes(in_axis=1, out_axis=2, batch_axis=0)}
ATTENTION = {"query": jp.Axes(in_axis=0, out_axis=(1, 2)), "out": jp.Axes((0, 1), 2)}
OF_KERNELS = {
    "outputs": {"axis": "in"},
    "inputs": {"axis": "out"},
    "channels": {"pattern": patterns.channel("in")},
    "blocks": {"pattern": patterns.block((2, 3))},
}


def assert_same(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-7)
    assert ((np.asarray(a) == 0) == (np.asarray(b) == 0)).all()


@pytest.mark.parametrize("kind", ["one", "one per weight"])
@pytest.mark.parametrize("name", OF_KERNELS)
def test_scanned_is_written_out(name, kind):
    """Values, steps and slopes of a stack are those of its layers, whose groups are their own."""
    stack = draw({"layers": (3, 4, 6)}, 12)["layers"] * jnp.array([1.0, 0.3, 0.1])[:, None, None]
    layers = {f"layer_{i}": stack[i] for i in range(3)}
    sizes = sizes_of({"layers": stack.shape}, kind, 12)
    own_sizes = sizes if kind == "one" else {n: sizes["layers"][i] for i, n in enumerate(layers)}
    scanned = penalties.group_l2(0.4, axes=STACKED, **OF_KERNELS[name])
    separate = penalties.group_l2(0.4, **OF_KERNELS[name])
    assert scanned.check({"layers": stack.shape}) is None
    assert_same(scanned.value({"layers": stack}, 0), separate.value(layers, 0))
    found = scanned.prox({"layers": stack}, sizes, 0)["layers"]
    expected = separate.prox(layers, own_sizes, 0)
    slopes, own_slopes = scanned.subgradient({"layers": stack}, 0), separate.subgradient(layers, 0)
    assert (found == 0).any() and (found != 0).any()  # noqa: PT018
    for i, layer in enumerate(layers):
        assert_same(found[i], expected[layer])
        assert_same(slopes["layers"][i], own_slopes[layer])


@pytest.mark.parametrize("name", OF_KERNELS)
def test_attention_is_its_matrix(name):
    kernels = draw({"query": (8, 2, 3), "out": (2, 3, 6)}, 13)
    matrices = {"query": kernels["query"].reshape(8, 6), "out": kernels["out"].reshape(6, 6)}
    heads = penalties.group_l2(0.4, axes=ATTENTION, **OF_KERNELS[name])
    plain = penalties.group_l2(0.4, **OF_KERNELS[name])
    assert_same(heads.value(kernels, 0), plain.value(matrices, 0))
    found, expected = heads.prox(kernels, 0.5, 0), plain.prox(matrices, 0.5, 0)
    for path, matrix in matrices.items():
        assert_same(found[path].reshape(matrix.shape), expected[path])


def test_sides_of_a_kernel_are_read_from_its_shape():
    """Outputs of a dense kernel and filters of a convolution, inputs of both."""
    leaves = draw({"dense": (3, 4), "conv": (2, 2, 3, 4)}, 14)
    for side, dense, conv in (("in", -2, (0, 1, 2)), ("out", -1, (0, 1, 3))):
        by_side = penalties.group_l2(0.3, axis=side).prox(leaves, 0.5, 0)
        for path, axis in (("dense", dense), ("conv", conv)):
            alone = {path: leaves[path]}
            literal = penalties.group_l2(0.3, axis=axis).prox(alone, 0.5, 0)
            assert_same(by_side[path], literal[path])
    channels = penalties.group_l2(0.3, pattern=patterns.channel("out"))
    assert_same(channels.value(leaves, 0), penalties.group_l2(0.3, axis="in").value(leaves, 0))


def test_sides_that_nobody_can_tell_are_refused():
    unknown = r"which axes of 'query' are inputs is not known.*axes="
    tx = jp.proximal(optax.sgd(0.1), penalties.group_l2(0.1, axis="in"), learning_rate=0.1)
    with pytest.raises(ValueError, match=unknown):
        tx.init({"query": jnp.ones((8, 2, 3))})
    with pytest.raises(ValueError, match=unknown):
        jp.add_penalty(penalties.group_l2(0.1, pattern=patterns.channel())).init(
            {"query": jnp.ones((8, 2, 3))}
        )
    bias = penalties.group_l2(0.1, axis="out").check({"b": (4,)})
    assert bias is not None
    assert "'b' has the shape (4,) and no axis of inputs" in bias
    with pytest.raises(ValueError, match=r'group_l2\(axis=\'rows\'\): "in", "out"'):
        penalties.group_l2(0.1, axis="rows")
    assert penalties.group_l2(0.1, axis=(0, 2)).check({"query": (8, 2, 3)}) is None, "literal"


def test_the_default_filter_asks_the_program():
    params = {"table": jnp.ones((5, 4)), "kernel": jnp.ones((4, 3))}
    apply = lambda params, ids: params["table"][ids] @ params["kernel"]
    axes = jp.axes(apply, params, jnp.zeros((2,), jnp.int32))
    tx = jp.proximal(optax.sgd(0.1), penalties.l1(0.1), learning_rate=0.1, axes=axes)
    assert jp.masks.paths(tx.init(params).masks) == ["kernel"]
    tx = jp.add_penalty(penalties.l1(0.5), axes=axes)
    zeros = jax.tree.map(jnp.zeros_like, params)
    found = tx.update(zeros, tx.init(params), params)[0]
    assert (found["table"] == 0).all()
    assert (found["kernel"] == 0.5).all()


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf")])
def test_strengths_are_checked(wrong):
    for make in (case[0] for case in CASES.values()):
        with pytest.raises(ValueError, match=r"strength=.*is needed"):
            make(wrong)
    with pytest.raises(ValueError, match=r"elastic\(ridge="):
        penalties.elastic(0.1, ridge=wrong)


def test_paths_are_those_of_masks():
    params = {"fc1": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}}
    named = dict(zip(jp.masks.paths(params), jax.tree.leaves(params), strict=True))
    unit = penalties.coupled(0.5, [{"fc1/kernel": -1, "fc1/bias": 0}])
    assert unit.covers == ("fc1/kernel", "fc1/bias")
    assert jnp.allclose(unit.value(named, 0), 4 * 0.5 * 2 * 2)  # norms and roots of size are 2
