"""What holds for every gate, because it is listed here; a factory that is not fails a test.

Compilation is what takes the time: what a gate says of a tree is read by one program, its training is
another, and of trees of other kinds only shapes are looked at, which is all that can differ.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen, nnx

import jaxprune as jp
from jaxprune import gates

STEPS = 12
GATES = {
    "hard_concrete": gates.hard_concrete,
    "hard_concrete, channels": functools.partial(
        gates.hard_concrete, pattern=jp.patterns.channel(axis=-2), weight_decay=0.1
    ),
    "hard_concrete, groups": functools.partial(
        gates.hard_concrete, pattern=jp.patterns.groups(2), strength=lambda step: 0.1 * step
    ),
    "variational_dropout": functools.partial(gates.variational_dropout, init=-4.0),
    "soft_threshold": functools.partial(gates.soft_threshold, init=-2.0),
    "supermask": gates.supermask,
    "supermask, popup": functools.partial(
        gates.supermask, sparsity=0.5, signed_constant=True, dynamic_scaling=True
    ),
    "movement": functools.partial(gates.movement, sparsity=0.75, end=STEPS),
    "soft_movement": functools.partial(gates.soft_movement, strength=0.1, end=STEPS),
    "continuous": functools.partial(gates.continuous, strength=0.1, end=STEPS),
}
NOISY = {n for n in GATES if n in ("variational_dropout", "supermask") or "concrete" in n}
SCHEDULED = {"movement", "soft_movement", "continuous"}
NO_GATES = {"Gate", "Gated", "Rule", "apply", "gate_of", "kl_log_uniform"}
every_gate = pytest.mark.parametrize("name", GATES)

X = jax.random.normal(jax.random.key(0), (32, 12))
Y = jnp.sin(X @ jax.random.normal(jax.random.key(1), (12, 8)))


def initial():
    """Two float types, weights that are exactly zero, a list, a scalar, an empty leaf, no leaf."""
    keys = jax.random.split(jax.random.key(2), 2)
    kernel = jax.random.normal(keys[0], (12, 16)) / 4
    return {
        "a": {"kernel": kernel.at[0].set(0).at[5, 3].set(0), "bias": jnp.zeros(16)},
        "b": [jax.random.normal(keys[1], (16, 8), jnp.bfloat16) / 4, jnp.zeros(8)],
        "odd": {"scalar": jnp.ones(()), "empty": jnp.ones((0, 4))},
        "none": None,
    }


GATED = {"a/kernel": (12, 16), "b/0": (16, 8)}
WEIGHTS = 12 * 16 + 16 * 8


def model(params, x):
    h = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    out = h.astype(params["b"][0].dtype) @ params["b"][0] + params["b"][1][None]
    return out * params["odd"]["scalar"]


def same(a, b):
    return jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


def spread(theta, scale=4.0):
    """Gates far from each other, so that some weights are there and some are not."""
    keys = jax.random.split(jax.random.key(4), len(theta.gates))
    moved = {
        n: g + scale * jax.random.normal(k, g.shape)
        for k, (n, g) in zip(keys, theta.gates.items(), strict=True)
    }
    return theta._replace(gates=moved)


def check_network(found, params, gated):
    """What `finalize` gives: a tree like the parameters, masks at the gated leaves and nowhere else."""
    network, masks = found
    assert like(network) == like(params)
    jp.masks.validate(params, masks)
    pairs = zip(jp.masks.paths(params), jp.masks.beside(params, masks), strict=True)
    assert {name for name, mask in pairs if mask is not None} == set(gated)


def like(tree):
    return jax.tree.map(lambda w: (jnp.shape(w), jnp.result_type(w)), tree)


class Seen(NamedTuple):
    """What a gate says of theta, and the gradients of a loss and its penalty."""

    sample: Any
    penalty: Any
    expected: Any
    final: Any
    slopes: Any


@functools.cache
def read(name):
    """(theta, key) -> Seen, compiled once for all tests."""
    gate = GATES[name]()

    def objective(theta, key):
        sample = gate.sample(theta, key=key, step=STEPS)
        out, cost = model(sample, X), gate.penalty(theta, step=STEPS)
        if gate.moments is not None:  # or `apply` does just this
            out += gates.apply(gate, model, theta, X, key=key, step=STEPS)
        return jnp.mean((out - Y) ** 2) + cost, (sample, cost)

    def see(theta, key):
        slopes, (sample, cost) = jax.grad(objective, has_aux=True)(theta, key)
        return Seen(sample, cost, gate.expected_l0(theta), gate.finalize(theta), slopes)

    return jax.jit(see)


@every_gate
def test_init_keeps_the_parameters(name):
    params = initial() | {"ids": jnp.arange(4).reshape(2, 2)}
    theta = GATES[name]().init(params, jax.random.key(3))
    assert theta.params is params, "as they are"
    assert set(theta.gates) == set(GATED)
    assert {g.dtype for g in theta.gates.values()} == {jnp.dtype(jnp.float32)}


@every_gate
def test_gates_are_float32_where_float64_is_the_default(name):
    with jax.enable_x64(True):
        params = {"w": jnp.ones((4, 4), jnp.float64), "v": jnp.ones((4, 4), jnp.float32)}
        gate, key = GATES[name](), jax.random.key(3)
        theta = jax.eval_shape(gate.init, params, key)
        assert {g.dtype for g in theta.gates.values()} == {jnp.dtype(jnp.float32)}
        found = jax.eval_shape(lambda theta: gate.sample(theta, key=key, step=1), theta)
        assert like(found) == like(params)
        out = jax.eval_shape(lambda theta: (gate.penalty(theta, 1), gate.expected_l0(theta)), theta)
        assert like(out) == (((), jnp.float32), ((), jnp.float32))


@every_gate
def test_a_sample_is_like_the_parameters(name):
    params = initial()
    theta = spread(GATES[name]().init(params, jax.random.key(3)))
    found, again, other = (read(name)(theta, jax.random.key(seed)).sample for seed in (5, 5, 6))
    assert like(found) == like(params)
    assert same(found, again), "the same key gives the same bits"
    assert same(found, other) == (name not in NOISY)
    for changed, old in (
        (found["a"]["kernel"], params["a"]["kernel"]),
        (found["b"][0], params["b"][0]),
    ):
        assert not jnp.array_equal(changed, old), "gated"
    rest = lambda tree: (tree["a"]["bias"], tree["b"][1], tree["odd"])
    assert same(rest(found), rest(params)), "not gated"


@every_gate
def test_gradients_are_finite(name):
    start = GATES[name]().init(initial(), jax.random.key(3))
    for scale in (0.0, 4.0, 100.0):
        found = read(name)(spread(start, scale), jax.random.key(3)).slopes
        assert jax.tree.all(jax.tree.map(lambda g: jnp.isfinite(g).all(), found)), scale
        assert scale != 4 or all((g != 0).any() for g in found.gates.values()), "gates learn"


@every_gate
def test_the_network_that_is_left(name):
    theta = spread(GATES[name]().init(initial(), jax.random.key(3)))
    found = read(name)(theta, jax.random.key(5))
    check_network(found.final, theta.params, GATED)
    network, masks = found.final
    jp.masks.check(network, masks)
    assert same(network["odd"], theta.params["odd"])
    kept = sum(int(mask.sum()) for mask in jax.tree.leaves(masks))
    assert 0 < kept < WEIGHTS, "a case in which weights are there and weights are not"
    assert like(found.expected) == like(found.penalty) == ((), jnp.float32)
    assert 0 < float(found.expected) < WEIGHTS
    assert jnp.isfinite(found.penalty)


@every_gate
def test_one_compilation_serves_the_whole_run(name):
    gate = GATES[name]()
    tx = optax.chain(optax.adam(3e-2), gate.project())

    @jax.jit
    def run(theta, key):
        def step(carry, t):
            theta, state = carry
            now = jax.random.fold_in(key, t)

            def objective(theta):
                out = gates.apply(gate, model, theta, X, key=now, step=t)
                return jnp.mean((out - Y) ** 2) + 1e-4 * gate.penalty(theta, step=t)

            loss, grads = jax.value_and_grad(objective)(theta)
            updates, state = tx.update(grads, state, theta)
            return (optax.apply_updates(theta, updates), state), loss

        return jax.lax.scan(step, (theta, tx.init(theta)), jnp.arange(STEPS))

    start = spread(gate.init(initial(), jax.random.key(3)))
    ((theta, _), losses), (again, _), _ = (run(start, jax.random.key(seed)) for seed in (5, 5, 6))
    assert run._cache_size() == 1
    assert same(theta, again[0]), "the same key gives the same bits"
    assert jnp.isfinite(losses).all()
    assert not same(theta.gates, start.gates)
    assert same(theta.params, start.params) == name.startswith("supermask")
    found = read(name)(theta, jax.random.key(5))
    jp.masks.check(*found.final)
    assert 0 <= float(found.expected) <= WEIGHTS


@every_gate
def test_many_thetas_at_once(name):
    gate = GATES[name]()
    key, single = jax.random.key(3), gate.init(initial(), jax.random.key(3))
    thetas = [spread(single), spread(single, 2.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *thetas)

    @jax.jit
    @jax.vmap
    def all_at_once(theta):
        return gate.sample(theta, key=key, step=STEPS), gate.penalty(theta, step=STEPS)

    found = all_at_once(stacked)
    close = lambda a, b: jnp.allclose(a, b, rtol=1e-2 if a.dtype == jnp.bfloat16 else 1e-5)
    for i, theta in enumerate(thetas):
        one = read(name)(theta, key)
        assert jax.tree.all(jax.tree.map(lambda x, y, i=i: close(x[i], y), found, tuple(one[:2])))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(8)(linen.relu(linen.Conv(4, (2, 2))(x)).mean((1, 2)))


class Nnx(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(4, 4, (2, 2), rngs=nnx.Rngs(0))
        self.fc = nnx.Linear(4, 8, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.fc(nnx.relu(self.conv(x)).mean((1, 2)))


@functools.cache
def networks():
    """By name: parameters, the network, the leaves that have gates."""
    linear, images = Linen(), jnp.ones((1, 6, 6, 4))
    shapes = jax.eval_shape(linear.init, jax.random.key(0), images)["params"]
    graph, state = nnx.split(nnx.eval_shape(Nnx), nnx.Param)
    square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    return {
        "linen": (
            shapes,
            lambda params, x: linear.apply({"params": params}, x),
            {"Conv_0/kernel", "Dense_0/kernel"},
        ),
        "nnx": (
            state,
            lambda params, x: nnx.merge(graph, params)(x),
            {"conv/kernel", "fc/kernel"},
        ),
        "a list": (
            [square] * 12,
            lambda params, x: functools.reduce(jnp.matmul, params, x[0, 0]),
            {str(n) for n in range(12)},  # among which '10' sorts before '2'
        ),
        "integers": (
            {"ids": jax.ShapeDtypeStruct((4, 4), jnp.int32), "w": square},
            lambda params, x: (x[0, 0] @ params["w"], params["ids"]),
            {"w"},
        ),
    }


@every_gate
@pytest.mark.parametrize("kind", ["linen", "nnx", "a list", "integers"])
def test_trees_of_every_kind(name, kind):
    gate, images, key = GATES[name](), jnp.ones((2, 6, 6, 4)), jax.random.key(3)
    params, network, gated = networks()[kind]

    def found(params):
        theta = gate.init(params, key)
        assert set(theta.gates) == gated
        out = gates.apply(gate, network, theta, images, key=key, step=STEPS)
        return out, network(params, images), gate.sample(theta, key, STEPS), gate.finalize(theta)

    out, expected, sample, final = jax.eval_shape(found, params)
    assert like(out) == like(expected)
    assert like(sample) == like(params)
    check_network(final, params, gated)


@every_gate
def test_only_what_is_prunable_has_gates(name):
    gate = GATES[name](prunable="^a/k")
    theta = jax.eval_shape(gate.init, initial(), jax.random.key(3))
    assert set(theta.gates) == {"a/kernel"}
    check_network(jax.eval_shape(gate.finalize, theta), theta.params, {"a/kernel"})
    with pytest.raises(ValueError, match="'nothing' matches none of the leaves 'a/bias'"):
        GATES[name](prunable="nothing").init(initial(), jax.random.key(3))


@every_gate
def test_what_is_missing_is_named(name):
    gate, kind = GATES[name](), name.split(",")[0]
    theta = jax.eval_shape(gate.init, initial(), jax.random.key(3))
    sample = lambda **given: jax.eval_shape(lambda theta: gate.sample(theta, **given), theta)
    needs_key = pytest.raises(ValueError, match=f"{kind}: sample.* needs a key")
    with needs_key if name in NOISY else contextlib.nullcontext():
        sample(step=0)
    needs_step = pytest.raises(ValueError, match=f"{kind}.* needs step=")
    with needs_step if name in SCHEDULED else contextlib.nullcontext():
        sample(key=jax.random.key(0))
    with pytest.raises(ValueError, match="needs the parameters"):
        gate.project().update(theta, gate.project().init(theta))


@every_gate
def test_gates_that_are_nan_leave_no_network(name):
    gate = GATES[name](prunable="w")
    theta = gate.init({"w": jnp.ones((4, 4))}, jax.random.key(3))
    diverged = theta._replace(gates={"w": jnp.full_like(theta.gates["w"], jnp.nan)})
    with pytest.raises(ValueError, match="finalize: the gates of 'w' hold NaN, by which"):
        gate.finalize(diverged)


@every_gate
def test_gates_of_another_tree_are_refused(name):
    gate = GATES[name]()
    theta = jax.eval_shape(gate.init, initial(), jax.random.key(3))
    changed = theta._replace(params={"a": theta.params["a"], "c": theta.params["b"]})
    key = jax.random.key(0)
    for read in (
        lambda: gate.sample(changed, key, 0),
        lambda: gate.penalty(changed, 0),
        lambda: gate.expected_l0(changed),
        lambda: gate.finalize(changed),
    ):
        with pytest.raises(
            ValueError, match=r"has 'b/0', but the leaves .* are a/bias, a/kernel, c/0"
        ):
            read()


def test_an_optimizer_for_the_weights_and_one_for_the_gates():
    gate = gates.hard_concrete()
    theta = gate.init(initial(), jax.random.key(3))
    own = {"weights": optax.sgd(0.0), "gates": optax.sgd(0.5)}
    tx = optax.chain(optax.partition(own, gates.Gated("weights", "gates")), gate.project())
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, theta), tx.init(theta), theta)
    moved = optax.apply_updates(theta, updates)
    assert same(moved.params, theta.params)
    for name, g in theta.gates.items():
        assert jnp.allclose(moved.gates[name], g - 0.5, atol=1e-6)


def test_every_gate_is_listed():
    listed = {name.split(",")[0] for name in GATES}
    assert set(gates.__all__) - NO_GATES == listed
