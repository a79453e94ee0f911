"""Operations between two layers: the width goes through them, and shrinks exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive

import jaxprune as jp
from benchmarks._operations import KINDS, OPERATIONS
from benchmarks.structured_primitives import error, width
from jaxprune import structured
from jaxprune.structured.graph import rules

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32) / 2
X = draw(2, 6, 3)


@pytest.fixture(autouse=True)
def ranks_are_promoted():
    """The operations are those that users write."""
    with jax.numpy_rank_promotion("allow"):
        yield


PINNED = {
    "a position per feature": "`scatter`",
    "Fourier transform of both axes": "`fft`",
    "inverse of weights": "`lu`",
    "orthogonal weights by QR": "`qr`",
    "exponential of weights": "`lu`",
    "pure_callback": "`pure_callback` has no rule",
    "cross product": "`slice`",  # two features are read by nothing, and stay
}
# Zeros of removed units are seen: they may be the largest.
INEXACT = {"maxout over features"}
QUICK = {"Arranging", "Writes", "Windows", "Norms and devices"}


def test_few_operations_pin_the_width_and_each_says_why():
    found = {name: width(operation) for name, operation in OPERATIONS.items()}
    assert {name: why for name, (free, why) in found.items() if not free} == PINNED
    assert len(PINNED) <= 8


CASES = [
    pytest.param(name, marks=[] if kind in QUICK else pytest.mark.slow)
    for kind, operations in KINDS.items()
    for name in operations
    if name not in PINNED
]


@pytest.mark.parametrize("name", CASES)
def test_half_of_the_width_goes_and_nothing_else_changes(name):
    assert (error(OPERATIONS[name]) < 1e-5) == (name not in INEXACT)


def shrunk(fn, params, *inputs, sparsity=0.5):
    """The graph, after half of each group's units has gone without a difference."""
    graph = structured.trace(fn, params, *inputs)
    masks = structured.prune(graph, params, sparsity=sparsity)
    small = structured.shrink(graph, params, masks)
    masked = jax.jit(fn)(jp.masks.apply(params, masks), *inputs)
    ours = jax.jit(small.apply)(small.params, *inputs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(masked), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)
    return graph, small


def units(graph):
    return {group.name: group.size for group in graph.groups}


def test_rows_that_are_added_are_units_and_rows_that_are_set_are_none():
    fn = lambda how: lambda p, x: getattr(x.at[jnp.asarray([0, 2, 0])], how)(p["rows"])
    params, x = {"rows": draw(3, 4)}, draw(5, 4)
    assert units(shrunk(fn("add"), params, x)[0]) == {"rows[0]": 3}
    assert not structured.trace(fn("set"), params, x).groups
    assert not structured.trace(fn("max"), params, x).groups


def test_windows_that_begin_outside_are_dropped_as_before():
    """A window that spans the features and begins behind their first is out of bounds, cut or not."""
    places = jnp.asarray([[0, 0], [1, 1]])
    numbers = lax.ScatterDimensionNumbers((1,), (0,), (0, 1))

    def fn(p, x):
        h = jnp.tanh(x @ p["in"])
        h = lax.scatter_add(h, places, h[:2], numbers, mode="drop")
        return h @ p["out"]

    assert units(shrunk(fn, {"in": draw(3, 8), "out": draw(8, 2)}, draw(5, 3))[0]) == {"in[1]": 8}


def test_windows_along_features_pin_them():
    params = {"in": draw(3, 8), "out": draw(8, 2)}
    between = lambda write: lambda p, x: write(x @ p["in"]) @ p["out"]
    for write in (lambda h: h.at[:, :4].set(1.0), lambda h: h.at[:, ::2].add(1.0)):
        graph = structured.trace(between(write), params, draw(5, 3))
        assert structured.pinned(graph)["in[1]"] in ("`scatter`", "`scatter-add`")


def test_padding_that_moves_a_window_of_one_pins_what_it_moves():
    """As many come out as went in, but others: two axes of a pooling, one in place and one moved."""
    shift = lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (1, 1), (1, 1), ((0, 0), (1, -1)))
    fn = lambda p, x: jnp.maximum(shift(x @ p["in"]), 0.0) @ p["out"]
    graph = structured.trace(fn, {"in": draw(3, 8), "out": draw(8, 2)}, draw(5, 3))
    assert not graph.groups


def test_an_axis_of_one_is_broadcast_by_a_tile():
    fn = lambda p, x: jnp.tanh(x @ p["in"] + jnp.tile(p["shift"], 8)) * p["gate"] @ p["out"]
    params = {"in": draw(3, 8), "shift": draw(1), "gate": draw(8), "out": draw(8, 2)}
    assert units(shrunk(fn, params, draw(5, 3))[0]) == {"in[1]": 8}


def test_stacked_parameters_share_their_axes():
    def fn(p, x):
        both = jnp.stack([p["a"], p["b"]], 1)  # [3, 2, 8]
        return jnp.tanh(jnp.einsum("ni,ikh->nkh", x, both)).sum(1) @ p["out"]

    params = {"a": draw(3, 8), "b": draw(3, 8), "out": draw(8, 2)}
    assert units(shrunk(fn, params, draw(5, 3))[0]) == {"a[1]": 8}


def test_experts_of_ragged_products_stay_and_their_widths_go():
    def fn(p, x):
        lengths = jnp.asarray([1, 3, 1], jnp.int32)
        h = jax.nn.silu(lax.ragged_dot(x, p["up"], lengths)) * lax.ragged_dot(x, p["gate"], lengths)
        return lax.ragged_dot(h, p["down"], lengths)

    params = {"up": draw(3, 4, 8), "gate": draw(3, 4, 8), "down": draw(3, 8, 4)}
    assert units(shrunk(fn, params, draw(5, 4))[0]) == {"gate[2]": 8}


def test_complex_numbers_between_layers():
    """A diagonal linear recurrence (LRU): complex states of real parameters."""

    def fn(p, x):
        rate = jnp.exp(-jnp.exp(p["decay"]) + 1j * jnp.exp(p["phase"]))
        drive = x @ (p["in"] + 1j * p["in imaginary"])
        step = lambda state, u: (rate * state + u, rate * state + u)
        states = lax.scan(step, jnp.zeros((2, 8), complex), drive.swapaxes(0, 1))[1]
        return (states @ (p["out"] + 1j * p["out imaginary"])).real

    params = {"decay": draw(8), "phase": draw(8), "in": draw(3, 8), "in imaginary": draw(3, 8)}
    params |= {"out": draw(8, 2), "out imaginary": draw(8, 2)}
    assert set(units(shrunk(fn, params, X)[0]).values()) == {8}


def test_collectives_of_nested_maps():
    def fn(p, x):
        def one(row):
            h = jnp.tanh(row @ p["in"])
            h = h - lax.pmean(h, "positions") + lax.psum(h, ("examples", "positions"))
            h = (
                h
                + lax.all_gather(h, "examples").sum(0)
                + lax.ppermute(h, "examples", [(0, 1), (1, 0)])
            )
            return h * lax.axis_index("positions") @ p["out"]

        return jax.vmap(jax.vmap(one, axis_name="positions"), axis_name="examples")(x)

    assert units(shrunk(fn, {"in": draw(3, 8), "out": draw(8, 2)}, X)[0]) == {"in[1]": 8}


def test_loops_of_which_each_example_has_an_end_of_its_own():
    def fn(p, x):
        def one(row):
            turn = lambda carry: (jnp.tanh(carry[0] @ p["w"]), 2 * carry[1])
            start = (row, 0.1 + jnp.sum(row**2))
            return lax.while_loop(lambda carry: carry[1] < 4, turn, start)[0]

        return jax.vmap(one)(jnp.tanh(x @ p["in"])) @ p["out"]

    params = {"in": draw(3, 8), "w": draw(8, 8), "out": draw(8, 2)}
    assert units(shrunk(fn, params, 3 * draw(5, 3))[0]) == {"in[1]": 8}


def test_linear_solves_keep_their_gradients():
    """By the equation: a loop until convergence has none of its own."""

    def fn(p, x):
        h = jnp.tanh(x @ p["in"])
        return jax.scipy.sparse.linalg.cg(lambda y: 2 * y + 0.1 * y.sum(0), h)[0] @ p["out"]

    params, x = {"in": draw(3, 8), "out": draw(8, 2)}, draw(5, 3)
    graph, small = shrunk(fn, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    loss = lambda f: lambda p: jnp.sum(jnp.sin(f(p, x)))
    whole = jax.grad(loss(fn))(jp.masks.apply(params, masks))
    ours = jax.grad(loss(small.apply))(small.params)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(small.plan.apply(whole)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_devices_that_share_an_axis_keep_it():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    inner = lambda h, w: lax.psum(jnp.tanh(h @ w), "d")
    split = jax.shard_map(inner, mesh=mesh, in_specs=(spec("d"), spec()), out_specs=spec())
    fn = lambda p, x: split(jnp.tanh(x @ p["in"]), p["w"]) @ p["out"]
    params = {"in": draw(3, 8), "w": draw(8, 6), "out": draw(6, 2)}
    assert units(shrunk(fn, params, draw(5, 3))[0]) == {"in[1]": 8, "w[1]": 6}


# Rules of one's own.


@pytest.fixture
def doubled():
    """A primitive without a rule, and none after the test."""
    primitive = Primitive("doubled_here")
    primitive.def_impl(lambda x: 2 * x)
    primitive.def_abstract_eval(lambda x: x)
    yield primitive
    rules.RULES.pop("doubled_here", None)


def test_a_rule_of_ones_own(doubled):
    params, x = {"in": draw(3, 8), "out": draw(8, 2)}, draw(5, 3)
    fn = lambda p, x: doubled.bind(x @ p["in"]) @ p["out"]
    before = structured.trace(fn, params, x)
    assert not before.groups
    assert "doubled_here (1)" in before.summary()
    rules.register(doubled, rules.Rule(rules.elementwise))
    graph = structured.trace(fn, params, x)
    assert units(graph) == {"in[1]": 8}
    assert not graph.unknown
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    masked = fn(jp.masks.apply(params, masks), x)
    np.testing.assert_allclose(small.apply(small.params, x), masked, rtol=1e-5, atol=1e-6)


def test_a_rule_is_not_replaced_unless_one_says_so(doubled):
    first, second = rules.Rule(rules.elementwise), rules.Rule(rules.each_its_own)
    rules.register("doubled_here", first)
    with pytest.raises(ValueError, match="'doubled_here' has a rule; say overwrite=True"):
        rules.register(doubled, second)
    assert rules.rule_of("doubled_here") is first
    rules.register(doubled, second, overwrite=True)
    assert rules.rule_of("doubled_here") is second


@pytest.mark.parametrize("name", ["scan", "jit", "shard_map", "custom_vjp_call"])
def test_what_runs_a_program_has_no_rule(name):
    with pytest.raises(ValueError, match="is followed itself; give rules to the primitives in it"):
        rules.register(name, rules.Rule(rules.elementwise), overwrite=True)
