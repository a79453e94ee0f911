import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune import penalties, preconditioners

# A lasso whose inputs differ in scale by a hundred, and with them the gradients.
N, D = 64, 10
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)) * np.logspace(-1, 1, D)[RNG.permutation(D)]
TRUTH = np.where(np.arange(D) % 3 == 0, 2.0, 0.0) / X.std(0)
Y = X @ TRUTH + 0.3 * RNG.normal(size=N)
STRENGTH = 0.3
START = {"w": jnp.zeros((D, 1))}
CLOSE = 0.02  # by how much of the strength slopes may miss the optimum


def lasso_loss(params):
    return jnp.mean((jnp.asarray(X, "f4") @ params["w"] - jnp.asarray(Y[:, None], "f4")) ** 2) / 2


def ista():
    w, step = np.zeros(D), N / np.linalg.norm(X, 2) ** 2
    for _ in range(40_000):
        v = w - step * X.T @ (X @ w - Y) / N
        w = np.sign(v) * np.maximum(np.abs(v) - step * STRENGTH, 0)
    return w


def missed(w):
    """By how much the conditions of an optimum are missed, beside the strength."""
    slope = X.T @ (X @ w - Y) / N
    wrong = np.where(w != 0, np.abs(slope + STRENGTH * np.sign(w)), np.abs(slope) - STRENGTH)
    return float(wrong.max() / STRENGTH)


def descend(tx, params, steps, loss=lasso_loss, state=None):
    def body(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, tx.init(params) if state is None else state)
    return jax.jit(lambda carry: jax.lax.scan(body, carry, None, length=steps)[0])(carry)


SGD = float(N / np.linalg.norm(X, 2) ** 2)
FALLING = optax.exponential_decay(0.1, 1000, 0.5)
REACHES = {
    "sgd": (optax.sgd(SGD), SGD, None, 30_000),
    "sgd with momentum": (optax.sgd(SGD / 10, momentum=0.9), SGD, None, 30_000),
    "adam": (optax.adam(FALLING), FALLING, preconditioners.adam(), 10_000),
    "rmsprop": (optax.rmsprop(FALLING), FALLING, preconditioners.rms(), 10_000),
    "adagrad": (optax.adagrad(1.0), 1.0, preconditioners.adagrad(), 15_000),
}


@functools.cache
def solution():
    w = ista()
    assert missed(w) < 1e-3
    assert 0 < (w == 0).sum() < D
    return w


@pytest.mark.parametrize("name", REACHES)
def test_the_lasso_is_solved(name):
    inner, rate, preconditioner, steps = REACHES[name]
    tx = jp.proximal(inner, penalties.l1(STRENGTH), rate, preconditioner=preconditioner)
    params, state = descend(tx, START, steps)
    w = np.asarray(params["w"][:, 0], float)
    assert missed(w) < CLOSE
    assert ((w == 0) == (solution() == 0)).all()
    assert np.allclose(w * X.std(0), solution() * X.std(0), atol=1e-2)
    assert (jp.masks_of(state)["w"] == (params["w"] != 0)).all()


def test_adam_without_a_preconditioner_solves_another_problem():
    tx = jp.proximal(optax.adam(FALLING), penalties.l1(STRENGTH), FALLING)
    params, _ = descend(tx, START, 10_000)
    assert missed(np.asarray(params["w"][:, 0], float)) > 10 * CLOSE


def test_contract():
    x = jax.random.normal(jax.random.key(0), (512, 30))
    values = jnp.array([[3.0], [-2.0], [1.5], [1.0], [-4.0]])
    truth = jnp.zeros((30, 1)).at[:5].set(values)
    init = {"kernel": 0.1 * jax.random.normal(jax.random.key(1), (30, 1)), "bias": jnp.zeros(1)}
    loss = lambda p: jnp.mean((x @ p["kernel"] + p["bias"][None] - x @ truth) ** 2)
    for penalty in (penalties.l1(0.1), penalties.l0(0.05), penalties.group_l2(0.1, axis=-1)):
        tx = jp.proximal(optax.sgd(0.05), penalty, learning_rate=0.05)
        params, state = descend(tx, init, 400, loss)
        assert ((params["kernel"] != 0) == (truth != 0)).all()
        masks = jp.masks_of(state)
        assert (masks["kernel"] == (truth != 0)).all()
        assert masks["bias"] is None


W = jax.random.normal(jax.random.key(5), (8, 8)) * jnp.logspace(-1, 0.5, 8)[None]


@flax.struct.dataclass
class Pair:
    weight: jax.Array
    shift: jax.Array | None


TREES = {
    "one array": W,
    "list": [W, jnp.zeros(8)],
    "struct": Pair(W, None),
    "odd leaves": {"w": W, "n": jnp.arange(3), "s": jnp.ones(()), "e": jnp.ones((0, 4)), "x": None},
    "bfloat16": {"w": W.astype(jnp.bfloat16)},
    "nnx": nnx.state(nnx.Linear(8, 8, kernel_init=lambda *_: W, rngs=nnx.Rngs(0))),
}
ADAM = {"preconditioner": preconditioners.adam()}


@pytest.mark.parametrize("make", [penalties.l1, functools.partial(penalties.group_l2, axis=-2)])
@pytest.mark.parametrize("name", TREES)
def test_any_tree_and_one_compilation(name, make):
    params = TREES[name]
    warm = optax.linear_schedule(0.0, 3.0, 4)
    tx = jp.proximal(optax.adam(0.1), make(warm), optax.constant_schedule(0.1), **ADAM)
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        return optax.apply_updates(params, updates), state

    with jax.numpy_rank_promotion("allow"):
        for _ in range(12):
            params, state = step(params, state)
    integers = name == "odd leaves"  # of which optax changes the dtype of the moments, once
    assert step._cache_size() == 1 + integers
    assert jax.tree.structure(params) == jax.tree.structure(TREES[name])
    kinds = zip(jax.tree.leaves(params), jax.tree.leaves(TREES[name]), strict=True)
    assert all(new.dtype == old.dtype for new, old in kinds)
    masks = jp.masks_of(state)
    jp.masks.check(params, masks)
    assert 0 < float(jp.masks.sparsity(masks)) < 1
    for p, m in zip(jax.tree.leaves(params), jp.masks.beside(params, masks), strict=True):
        assert m is None or ((p != 0) == m).all()


def test_narrow_weights_land_where_they_should():
    params = {"w": W.astype(jnp.bfloat16)}
    penalty = penalties.l1(1.0)
    tx = jp.proximal(optax.sgd(0.1), penalty, 0.1)
    update = jax.jit(tx.update)
    updates, state = update({"w": jnp.full((8, 8), 0.5, jnp.bfloat16)}, tx.init(params), params)
    wanted = penalty.prox({"w": params["w"].astype("f4") - jnp.bfloat16(0.05)}, 0.1, 0)["w"]
    landed = optax.apply_updates(params, updates)["w"]
    assert (landed == wanted.astype(jnp.bfloat16)).all()
    assert (jp.masks_of(state)["w"] == (landed != 0)).all()


def test_a_weight_lost_in_the_step_is_masked():
    """1 + (1e-10 - 1) is 0 in float32: it is what counts, not the 1e-10."""
    params, grads = {"w": jnp.array([[1.0, 1.0]])}, {"w": jnp.array([[1.0 - 2.0**-24, 0.25]])}
    tx = jp.proximal(optax.sgd(1.0), penalties.l1(2.0**-24 - 1e-10), 1.0)
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    landed = optax.apply_updates(params, updates)["w"]
    assert (jp.masks_of(state)["w"] == (landed != 0)).all()


def test_weights_come_back_when_the_penalty_goes():
    strength = optax.piecewise_constant_schedule(100.0, {5: 0.0})
    tx = jp.proximal(optax.sgd(SGD), penalties.l1(strength), SGD)
    params, state = descend(tx, {"w": jnp.ones((D, 1))}, 5)
    assert (params["w"] == 0).all()
    assert not jp.masks_of(state)["w"].any()
    params, state = descend(tx, params, 5, state=state)
    assert (params["w"] != 0).all()
    assert jp.masks_of(state)["w"].all()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_gathered_gradients_count_as_one_step(kind):
    rate = lambda count: 0.05 / (1 + count)
    make, more = (optax.sgd, {}) if kind == "sgd" else (optax.adam, ADAM)
    penalty = penalties.l1(3.0 if kind == "sgd" else 0.3)
    tx = lambda inner: jp.proximal(inner, penalty, rate, **more)
    plain, _ = descend(tx(make(rate)), {"w": W}, 4, lambda p: jnp.sum(p["w"] ** 2 * 0.1))
    for gathering in (
        tx(optax.MultiSteps(make(rate), 3).gradient_transformation()),
        optax.MultiSteps(tx(make(rate)), 3),
    ):
        params, state = descend(gathering, {"w": W}, 12, lambda p: jnp.sum(p["w"] ** 2 * 0.1))
        assert jnp.allclose(params["w"], plain["w"], atol=1e-5)
        assert ((params["w"] == 0) == (plain["w"] == 0)).all()
        assert (jp.masks_of(state)["w"] == (params["w"] != 0)).all()
    assert 0 < (plain["w"] == 0).sum() < W.size


NAN = jnp.full_like(W, jnp.nan)
PULL = {"w": 0.01 * jnp.ones_like(W)}
SKIPS = {
    "apply_if_finite": lambda inner: optax.apply_if_finite(inner, 5),
    "apply_if_finite in a chain": lambda inner: optax.chain(
        optax.apply_if_finite(inner, 5), optax.scale(1.0)
    ),
    "MultiSteps that skips": lambda inner: optax.MultiSteps(
        inner, 1, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("name", SKIPS)
def test_a_skipped_call_is_no_proximal_step(name, kind):
    inner, more = (optax.sgd(0.1), {}) if kind == "sgd" else (optax.adam(0.1), ADAM)
    strengths = optax.piecewise_constant_schedule(0.1, {1: 3.0})
    tx = jp.proximal(SKIPS[name](inner), penalties.l1(strengths), 0.1, **more)
    update = jax.jit(tx.update)
    updates, state = update({"w": NAN}, tx.init({"w": W}), {"w": W})
    assert (updates["w"] == 0).all()
    assert jp.masks_of(state)["w"].all()
    plain = jp.proximal(inner, penalties.l1(strengths), 0.1, **more)
    for _ in range(2):  # goes on as if nothing had been
        updates, state = update(PULL, state, {"w": W})
    expected, expected_state = plain.update(PULL, plain.init({"w": W}), {"w": W})
    expected, expected_state = plain.update(PULL, expected_state, {"w": W})
    assert jnp.allclose(updates["w"], expected["w"], atol=1e-6)
    assert (expected["w"] != 0).all()


def test_a_first_gradient_of_nan_that_is_cleared_deletes_nothing():
    inner = optax.chain(optax.zero_nans(), optax.adam(1e-3))
    tx = jp.proximal(inner, penalties.l1(1e-3), 1e-3, **ADAM)
    updates, _ = tx.update({"w": NAN}, tx.init({"w": W}), {"w": W})
    assert (updates["w"] == 0).all()


GATHERS = {
    "every": lambda inner: optax.chain(inner, optax.apply_every(4)),
    "mask": lambda inner: optax.conditionally_mask(inner, lambda step: step % 4 == 3),
}


@pytest.mark.parametrize("name", GATHERS)
def test_calls_that_move_nothing_are_no_proximal_steps(name):
    tx = jp.proximal(GATHERS[name](optax.sgd(0.1)), penalties.l1(1.0), 0.1)
    state = tx.init({"w": W})
    for _ in range(3):
        updates, state = jax.jit(tx.update)(PULL, state, {"w": W})
        assert (updates["w"] == 0).all()
    updates, state = tx.update(PULL, state, {"w": W})
    moved = W - 0.1 * (4 if name == "every" else 1) * PULL["w"]
    wanted = penalties.l1(1.0).prox({"w": moved}, 0.1, 0)["w"]
    assert jnp.allclose(W + updates["w"], wanted, atol=1e-6)


def test_weights_that_move_by_momentum_are_stepped_for():
    inner = optax.chain(optax.apply_every(4), optax.trace(0.9), optax.scale(-0.1))
    tx, plain = jp.proximal(inner, penalties.l1(0.1), 0.1), inner
    state, plain_state = tx.init({"w": W}), plain.init({"w": W})
    for _ in range(5):  # in the last one nothing is applied, but what was keeps moving
        updates, state = tx.update(PULL, state, {"w": W})
        alone, plain_state = plain.update(PULL, plain_state, {"w": W})
    assert (alone["w"] != 0).all()
    assert not jnp.allclose(updates["w"], alone["w"], atol=1e-3)


def test_sam_out_and_back_is_one_proximal_step():
    sam = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), sync_period=2)
    tx = jp.proximal(sam, penalties.l1(1.0), 0.1)
    out, state = tx.update(PULL, tx.init({"w": W}), {"w": W})
    assert jnp.allclose(out["w"], 0.05 * PULL["w"], atol=1e-6), "no step: out along the gradient"
    back, _ = tx.update(PULL, state, optax.apply_updates({"w": W}, out))
    wanted = penalties.l1(1.0).prox({"w": W - 0.1 * PULL["w"]}, 0.1, 0)["w"]
    assert jnp.allclose(W + out["w"] + back["w"], wanted, atol=1e-6)


def test_each_part_of_the_leaves_waits_for_its_own_optimizer():
    gathering = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    inner = optax.partition({"a": gathering, "b": optax.sgd(0.1)}, {"v": "a", "w": "b"})
    tx = jp.proximal(inner, penalties.l1(1.0), 0.1)
    params = {"v": W, "w": W}
    updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert (updates["v"] == 0).all()
    assert (updates["w"] != 0).all()
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
    assert (updates["v"] != 0).all()


def test_coupled_units_wait_together():
    units = penalties.coupled(0.1, [{"w": -1, "b": 0}])
    tx = jp.proximal(optax.apply_if_finite(optax.sgd(0.1), 3), units, 0.1)
    params = {"w": W, "b": jnp.ones(8)}
    grads = {"w": NAN, "b": jnp.zeros(8)}
    updates, state = tx.update(grads, tx.init(params), params)
    assert all((update == 0).all() for update in updates.values())
    plain = jp.proximal(optax.sgd(0.1), units, 0.1)
    grads = {"w": W, "b": jnp.zeros(8)}
    expected, _ = plain.update(grads, plain.init(params), params)
    updates, _ = tx.update(grads, state, params)
    for name, update in updates.items():
        assert jnp.allclose(update, expected[name], atol=1e-6)


def frozen_part(frozen):
    labels = {"v": "free", "w": "free", "scale": "free"} | dict.fromkeys(frozen, "frozen")
    return optax.partition({"free": optax.adam(0.1), "frozen": optax.set_to_zero()}, labels)


def test_what_the_optimizer_freezes_is_left_alone():
    params = {"v": W, "w": W, "scale": jnp.ones(8)}
    grads = jax.tree.map(jnp.ones_like, params)
    tx = jp.proximal(frozen_part(["w"]), penalties.l1(1.0), 0.1, **ADAM)
    state = tx.init(params)
    updates, state = tx.update(grads, state, params)
    assert (updates["w"] == 0).all()
    assert jp.masks_of(state)["w"] is None
    assert (jp.masks_of(state)["v"] == (params["v"] + updates["v"] != 0)).all()
    with pytest.raises(ValueError, match=r"never changes 'v', 'w', so nothing is left to penalise"):
        jp.proximal(frozen_part(["v", "w"]), penalties.l1(1.0), 0.1).init(params)
    units = penalties.coupled(0.1, [{"v": -1, "w": 0}])
    with pytest.raises(ValueError, match=r"never changes 'w', but units that the penalty couples"):
        jp.proximal(frozen_part(["w"]), units, 0.1).init(params)


def test_scan_vmap_and_resuming_give_the_same():
    tx = jp.proximal(optax.adam(FALLING), penalties.l1(STRENGTH), FALLING, **ADAM)
    straight = descend(tx, START, 60)
    half = descend(tx, START, 30)
    saved = jax.tree.map(np.asarray, half)
    resumed = descend(tx, saved[0], 30, state=saved[1])
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), straight, resumed))
    starts = jnp.stack([START["w"], START["w"] + 1])
    params, _ = jax.vmap(lambda w: descend(tx, {"w": w}, 60))(starts)
    assert jnp.allclose(params["w"][0], straight[0]["w"], atol=1e-5)


def test_hidden_units_die_everywhere_at_once():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "fc1": {"kernel": jax.random.normal(keys[0], (4, 16)), "bias": jnp.zeros(16)},
        "fc2": {"kernel": jax.random.normal(keys[1], (16, 2)), "bias": jnp.zeros(2)},
    }
    x = jax.random.normal(keys[2], (64, 4))

    def loss(p):
        h = jax.nn.relu(x @ p["fc1"]["kernel"] + p["fc1"]["bias"][None])
        return jnp.mean((h @ p["fc2"]["kernel"] + p["fc2"]["bias"][None] - x[:, :2]) ** 2)

    unit = penalties.coupled(0.05, [{"fc1/kernel": -1, "fc1/bias": 0, "fc2/kernel": 0}])
    tx = jp.proximal(optax.adam(1e-2), unit, 1e-2, **ADAM)
    params, state = descend(tx, params, 1000, loss)
    alive = (params["fc1"]["kernel"] != 0).any(0)
    assert 2 <= alive.sum() < 16
    assert (alive == (params["fc2"]["kernel"] != 0).any(1)).all()
    assert (params["fc1"]["bias"][~alive] == 0).all()
    assert jp.masks_of(state)["fc2"]["bias"] is None
    assert loss(params) < 0.3


def test_it_works_inside_other_transforms_and_passes_arguments_on():
    inner = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1))
    tx = optax.chain(jp.proximal(inner, penalties.l1(0.5), 0.1))
    params = {"w": W, "frozen": jnp.ones((2, 2))}
    tx = optax.masked(tx, {"w": True, "frozen": False})
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params, value=1.0)
    assert updates["w"].shape == W.shape
    assert float(optax.tree.get(state, "scale")) < 1.0
    assert jp.masks_of(state)["w"].shape == W.shape


def test_added_penalties_are_those_of_the_loss():
    penalty = penalties.l1(lambda step: 0.1 * (step + 1))
    added = optax.chain(jp.add_penalty(penalty, prunable="w"), optax.sgd(0.1))
    params, _ = descend(added, {"w": W, "b": W}, 1, lambda p: jnp.sum(p["w"] * 0 + p["b"] ** 2))
    assert jnp.allclose(params["w"], W - 0.01 * jnp.sign(W), atol=1e-6)
    assert jnp.allclose(params["b"], 0.8 * W, atol=1e-6), "what is not penalised"
    tx = jp.add_penalty(penalty, prunable="w")
    _, state = tx.update({"w": W}, tx.init({"w": W}), {"w": W})
    assert jnp.allclose(tx.update({"w": 0 * W}, state, {"w": W})[0]["w"], 0.2 * jnp.sign(W))


def test_added_penalties_give_no_exact_zeros():
    tx = optax.chain(jp.add_penalty(penalties.l1(STRENGTH)), optax.sgd(SGD))
    params, _ = descend(tx, {"w": jnp.ones((D, 1))}, 3000)
    assert (params["w"] != 0).all()


def test_network_slimming_pulls_at_scales():
    params = {"norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)}, "kernel": jnp.ones((3, 3))}
    tx = jp.add_penalty(penalties.l1(1e-4), prunable="scale$")
    grads, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert jnp.allclose(grads["norm"]["scale"], 1e-4)
    assert (grads["norm"]["bias"] == 0).all()
    assert (grads["kernel"] == 0).all()


def test_what_is_wrong_is_said():
    make = lambda penalty, **more: jp.proximal(optax.sgd(0.1), penalty, 0.1, **more)
    params = {"conv": jnp.ones((3, 3, 2, 4)), "dense": jnp.ones((2, 4)), "bias": jnp.ones(4)}
    filters = penalties.group_l2(0.1, axis=(0, 1, 2))
    with pytest.raises(ValueError, match=r"proximal: group_l2.*'dense' has the shape \(2, 4\)"):
        make(filters).init(params)
    make(filters, prunable="conv").init(params)
    with pytest.raises(ValueError, match="proximal: coupled: 'fc' is none of the leaves 'bias'"):
        make(penalties.coupled(0.1, [{"fc": 0}])).init(params)
    with pytest.raises(ValueError, match="leave prunable= out"):
        make(penalties.coupled(0.1, [{"dense": 0}]), prunable="dense").init(params)
    with pytest.raises(ValueError, match="matches none of the leaves"):
        make(penalties.l1(0.1), prunable="nothing").init(params)
    with pytest.raises(ValueError, match="needs the parameters"):
        make(penalties.l1(0.1)).update(params, make(penalties.l1(0.1)).init(params))
    with pytest.raises(ValueError, match=r"proximal\(learning_rate=-0.1\)"):
        jp.proximal(optax.sgd(0.1), penalties.l1(0.1), -0.1)
    with pytest.raises(ValueError, match="no subgradient"):
        jp.add_penalty(penalties.l0(0.1))
    part = optax.masked(optax.adam(0.1), {"conv": True, "dense": False, "bias": True})
    tx = jp.proximal(part, penalties.l1(0.1), 0.1, **ADAM)
    with pytest.raises(ValueError, match="no factor for 'dense'"):
        tx.update(params, tx.init(params), params)
