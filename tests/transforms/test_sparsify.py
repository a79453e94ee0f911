import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import optax
import pytest
from fast_xla import jit_of_same_bits

import jaxprune as jp
from jaxprune.transforms import masked_step as state_lib
from jaxprune.transforms.mirrored_state import mirrors

X = jax.random.normal(jax.random.key(0), (32, 12))
Y = jnp.sin(X @ jax.random.normal(jax.random.key(1), (12, 4)))


def initial(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(2), 2)
    return {
        "a": {
            "kernel": jax.random.normal(keys[0], (12, 16), dtype) / 4,
            "bias": jnp.zeros(16, dtype),
        },
        "b": {
            "kernel": jax.random.normal(keys[1], (16, 4), dtype) / 4,
            "bias": jnp.zeros(4, dtype),
        },
    }


def loss(params):
    h = jnp.tanh(X @ params["a"]["kernel"] + params["a"]["bias"][None])
    return jnp.mean((h @ params["b"]["kernel"] + params["b"]["bias"][None] - Y) ** 2)


METHODS = {
    "magnitude": jp.methods.magnitude(sparsity=0.75, at=4),
    "gmp": jp.methods.gmp(sparsity=0.75, begin=2, end=13, every=4),
    "ac/dc": jp.methods.ac_dc(sparsity=0.75, begin=3, end=13, every=5),
    "gmp, 1:4": jp.methods.gmp(
        sparsity=0.75, begin=2, end=13, every=4, pattern=jp.patterns.groups(4)
    ),
    "set": jp.methods.set_(sparsity=0.75, every=4, end=13),
    "rigl": jp.methods.rigl(sparsity=0.75, every=4, end=13),
    "rigl, 1:4": jp.methods.rigl(
        sparsity=0.75,
        every=4,
        end=13,
        pattern=jp.patterns.groups(4),
        allocation=jp.allocation.uniform(),
    ),
    "snfs": jp.methods.snfs(sparsity=0.75, every=4, end=13),
    "dsr": jp.methods.dsr(sparsity=0.75, every=4, end=13),
    "partition": jp.partition(
        {
            "a/": jp.methods.rigl(sparsity=0.75, every=4, end=13),
            "b/": jp.methods.gmp(
                sparsity=0.75, begin=2, end=11, every=3, pattern=jp.patterns.groups(4)
            ),
        }
    ),
}
STEPS = 18


def train(tx, params, steps=STEPS, state=None, loss=loss, jit=jax.jit):
    """Trains and yields parameters and state after each update, from one compiled step."""

    @jit
    def step(params, state):
        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params) if state is None else state
    for _ in range(steps):
        params, state = step(params, state)
        yield params, state
    assert step._cache_size() == 1, "one compilation serves the whole run"


@pytest.mark.parametrize("inner", ["momentum", "adam"])
def test_when_rigl_changes_masks_no_weight_moves_and_what_grows_has_no_momentum(inner):
    make = {"momentum": optax.sgd(0.05, momentum=0.9), "adam": optax.adamw(0.05)}
    tx = jp.sparsify(make[inner], METHODS["rigl"], key=jax.random.key(3))
    before, grown, changes = None, 0, 0
    for step, (params, state) in enumerate(train(tx, initial())):
        if before is not None:
            old_params, old_state = before
            old, new = jp.masks_of(old_state), jp.masks_of(state)
            if not jax.tree.all(jax.tree.map(jnp.array_equal, old, new)):
                assert step % 4 == 0 or step == 13
                changes += 1
                assert jax.tree.all(
                    jax.tree.map(jnp.array_equal, params, jp.masks.apply(old_params, new))
                ), "no gradient step of any leaf, biases included"
                for moment, owner in zip(
                    jax.tree.leaves(state.inner), mirrors(params, state.inner), strict=True
                ):
                    mask = None if owner is None else jp.masks.beside(params, new)[owner]
                    was = None if owner is None else jp.masks.beside(params, old)[owner]
                    if mask is not None:
                        assert not moment[mask & ~was].any(), "what grows has no momentum"
                        grown += int((mask & ~was).sum())
        before = params, state
    assert changes > 1
    assert grown > 0


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_regrown_weights_start_from_zero(name):
    tx = jp.sparsify(optax.sgd(0.0), METHODS[name], key=jax.random.key(3))
    before, grown = None, 0
    for params, state in train(tx, initial()):
        masks = jp.masks_of(state)
        if before is not None:
            new = masks["a"]["kernel"] & ~before["a"]["kernel"]
            grown += int(new.sum())
            assert not params["a"]["kernel"][new].any()
        before = masks
    assert grown > 0


def test_n_of_m_regrows_within_its_groups():
    before, moved = None, 0
    tx = jp.sparsify(optax.adam(1e-2), METHODS["rigl, 1:4"], key=jax.random.key(3))
    for _, state in train(tx, initial()):
        mask = jp.masks_of(state)["a"]["kernel"]
        assert (mask.reshape(3, 4, 16).sum(1) == 1).all()
        moved += 0 if before is None else int((mask & ~before).sum())
        before = mask
    assert moved > 0, "masks that never change would be no dynamic sparse training"


@pytest.mark.parametrize("name", ["snfs", "dsr"])
def test_places_move_between_leaves_and_none_is_lost(name):
    tx = jp.sparsify(optax.adam(1e-2), METHODS[name], key=jax.random.key(3))
    counts = set()
    for _, state in train(tx, initial()):
        masks = jp.masks_of(state)
        counts.add((int(masks["a"]["kernel"].sum()), int(masks["b"]["kernel"].sum())))
    assert len(counts) > 1
    assert {a + b for a, b in counts} == {(12 * 16 + 16 * 4) // 4}


def test_ac_dc_is_dense_in_between():
    tx = jp.sparsify(optax.adam(1e-2), METHODS["ac/dc"])
    found = [float(jp.masks.sparsity(jp.masks_of(state))) for _, state in train(tx, initial())]
    assert found == [0.0] * 3 + [0.75] * 5 + [0.0] * 5 + [0.75] * 5


def test_std_threshold_lets_the_weights_decide():
    params = initial()
    tx = jp.sparsify(optax.sgd(0.0), jp.methods.std_threshold(quality=1.0))
    *_, (_, state) = train(tx, params, 2)
    for name in ("a", "b"):
        w = params[name]["kernel"]
        expected = jnp.abs(w) >= jnp.sqrt(jnp.mean(w**2))
        assert (jp.masks_of(state)[name]["kernel"] == expected).all()


def test_movement_adds_up_what_pushes_weights():
    params = {"w": jnp.array([[1.0, -2.0, 3.0, 0.5]])}
    grads = {"w": jnp.array([[1.0, 1.0, -1.0, 0.1]])}  # movement_sum: -1, 2, 3, -0.05
    method = jp.methods.movement(sparsity=0.5, begin=2, end=2, every=1)
    tx = jp.sparsify(optax.sgd(0.0), method)
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(grads, state, params)
    assert state.memory["movement_sum"]["w"].tolist() == [[-3.0, 6.0, 9.0, jnp.float32(-0.05) * 3]]
    assert jp.masks_of(state)["w"].tolist() == [[False, True, True, False]]


def test_a_sum_that_restarts_counts_the_steps_since_the_masks_changed():
    method = jp.methods.rigl(sparsity=0.5, every=3, end=7, accumulate=True)
    tx = jp.sparsify(optax.sgd(0.0), method, key=jax.random.key(0))
    params = {"w": W}
    state = tx.init(params)
    found = []
    for _ in range(9):
        _, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        found.append(float(state.memory["gradient_sum"]["w"][0, 0]))
    assert found == [1.0, 2.0, 3.0, 0.0, 1.0, 2.0, 0.0, 0.0, 1.0]  # changes at 3, 6 and 7


def test_methods_without_memory_remember_nothing():
    state = jp.sparsify(optax.sgd(0.1), METHODS["rigl"], key=jax.random.key(0)).init(initial())
    assert not jax.tree.leaves(state.memory)


def test_a_partition_gives_each_leaf_its_own_method():
    tx = jp.sparsify(optax.sgd(0.05), METHODS["partition"], key=jax.random.key(3))
    changes = {"a": [], "b": []}
    before = jp.masks_of(tx.init(initial()))
    for step, (_, state) in enumerate(train(tx, initial())):
        masks = jp.masks_of(state)
        for name in changes:
            if not jnp.array_equal(masks[name]["kernel"], before[name]["kernel"]):
                changes[name].append(step)
        before = masks
    assert changes["b"] == [5, 8], "two of four, then one, on the way to 1:4"
    assert {4, 8} <= set(changes["a"]) <= {4, 8, 12, 13}


def test_what_a_partition_cannot_do_is_refused():
    gmp = METHODS["gmp"]
    with pytest.raises(ValueError, match="'conv' matches none of the leaves"):
        jp.sparsify(optax.sgd(0.1), jp.partition({"conv": gmp})).init(initial())
    with pytest.raises(ValueError, match="straight through the masks"):
        jp.partition({"a": gmp, "b": jp.methods.ste(sparsity=0.5, end=3)})
    dense = jp.sparsify(optax.sgd(0.1), jp.partition({"b/": gmp}))
    assert jp.masks_of(dense.init(initial()))["a"]["kernel"] is None


def test_combinations_without_meaning_are_refused():
    init = lambda method: jp.sparsify(optax.sgd(0.1), method, key=jax.random.key(0)).init(initial())
    with pytest.raises(ValueError, match=r"leaves none of the 4 weights .* allows 0.75 at most"):
        init(jp.methods.magnitude(sparsity=0.9, pattern=jp.patterns.groups(4)))
    snfs = dataclasses.replace(METHODS["snfs"], pattern=jp.patterns.groups(4))
    with pytest.raises(ValueError, match="keeps no counts per contest"):
        init(snfs)
    with pytest.raises(ValueError, match="keeps no counts per contest"):
        init(dataclasses.replace(METHODS["gmp, 1:4"], update=jp.updates.splice()))
    with pytest.raises(ValueError, match="use straight_through"):
        init(jp.methods.ste(sparsity=0.5, end=3))


def test_rigl_does_not_slow_down_schedules():
    counted = []
    rate = lambda count: 0.1 / (1 + count)
    tx = jp.sparsify(optax.adam(rate), METHODS["rigl"], key=jax.random.key(3))
    for _, state in train(tx, initial()):
        counted.append(int(state.inner[-1].count))
    assert counted == list(range(1, STEPS + 1))


def test_rigl_grows_where_the_gradient_is_largest():
    params = initial()
    tx = jp.sparsify(
        optax.sgd(0.0), jp.methods.rigl(sparsity=0.75, every=1, end=2), key=jax.random.key(0)
    )
    state = tx.init(params)
    params = jp.masks.apply(params, jp.masks_of(state))
    old = jp.masks_of(state)["a"]["kernel"]
    for _ in range(2):  # the second update is due
        grads = jax.grad(loss)(params)
        _, state = tx.update(grads, state, params)
    new = jp.masks_of(state)["a"]["kernel"]
    size = jnp.abs(grads["a"]["kernel"])
    grown, passed_over = size[new & ~old], size[~new & ~old]
    assert grown.size > 0
    assert grown.min() >= passed_over.max()


@pytest.mark.parametrize("name", ["gmp", "rigl", "gmp, 1:4", "partition"])
def test_packed_masks_train_to_the_same_bits(name):
    make = functools.partial(jp.sparsify, optax.adam(1e-2), METHODS[name], key=jax.random.key(3))
    *_, (plain, _) = train(make(), initial(), jit=jit_of_same_bits)
    *_, (packed, state) = train(make(packed=True), initial(), jit=jit_of_same_bits)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, plain, packed))
    stored = sum(bits.size for bits in jax.tree.leaves(state.masks))
    assert stored == (12 * 16 + 16 * 8) // 8, "one bit per weight, rows padded to bytes"


def test_loop_and_scan_give_the_same_masks_and_vmap_seeds():
    tx = jp.sparsify(optax.sgd(0.05), METHODS["gmp"])
    *_, (_, looped) = train(tx, initial())

    def run(params):
        def body(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(body, (params, tx.init(params)), None, length=STEPS)
        return params, jp.masks_of(state)

    _, scanned = jax.jit(run)(initial())
    same = jax.tree.map(jnp.array_equal, jp.masks_of(looped), scanned)
    assert jax.tree.all(same)
    seeds = jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), initial())
    params, masks = jax.jit(jax.vmap(run))(seeds)
    assert masks["a"]["kernel"].sum((1, 2)).tolist() == [48] * 3
    assert jnp.where(masks["a"]["kernel"], 0, params["a"]["kernel"]).max() == 0.0


@flax.struct.dataclass
class Pair:
    weight: jax.Array
    shift: jax.Array | None


@dataclasses.dataclass
class Plain:
    weight: jax.Array


jax.tree_util.register_dataclass(Plain, data_fields=["weight"], meta_fields=[])
W = jax.random.normal(jax.random.key(5), (8, 8))
TREES = {
    "one array": W,
    "list": [W, jnp.zeros(8)],
    "tuple of dicts": ({"w": W}, {"w": W + 1}),
    "frozen": flax.core.freeze({"w": W, "b": jnp.zeros(8)}),
    "struct": Pair(W, None),
    "dataclass": Plain(W),
    "odd leaves": {"w": W, "n": jnp.arange(3), "s": jnp.ones(()), "e": jnp.ones((0, 4)), "x": None},
    "bfloat16": {"w": W.astype(jnp.bfloat16)},
    "scan-stacked": {"w": jnp.stack([W, 9 * W])},
}


@pytest.mark.parametrize("name", TREES)
def test_any_tree(name):
    params = TREES[name]
    tx = jp.sparsify(optax.adam(1e-1), METHODS["gmp"])
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        updates = jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params)
        return optax.apply_updates(params, updates), state

    for _ in range(15):
        params, state = step(params, state)
    masks = jp.masks_of(state)
    jp.masks.check(params, masks)
    assert float(jp.masks.sparsity(masks)) == 0.75
    assert jax.tree.structure(params) == jax.tree.structure(TREES[name])


def test_extra_arguments_reach_criterion_and_optimizer():
    def by_value(params, *, value, **_):
        return jax.tree.map(lambda p: jnp.abs(p) * value, params)

    inner = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1))
    method = jp.Method(by_value, schedule=jp.schedules.one_shot(sparsity=0.5))
    tx = jp.sparsify(inner, method)
    params = initial()
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(params, state, params, value=jnp.float32(2.0))
    assert float(jp.masks.sparsity(jp.masks_of(state))) == 0.5
    assert float(state.inner[1].scale) < 1.0


def test_gradient_clipping_does_not_see_pruned_weights():
    _, masks = jp.prune({"w": W}, jp.methods.magnitude(sparsity=0.5))
    tx = jp.fixed(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)), masks)
    params = jp.masks.apply({"w": W}, masks)
    updates, _ = tx.update({"w": jnp.where(masks["w"], 0.01, 1e6)}, tx.init(params), params)
    assert jnp.allclose(updates["w"][masks["w"]], -0.01)


def test_nans_under_the_mask_stay_there():
    masks = {"w": jnp.eye(8, dtype=bool)}
    tx = jp.fixed(optax.adam(0.1), masks)
    params = jp.masks.apply({"w": W}, masks)
    grads = {"w": jnp.where(masks["w"], 1.0, jnp.nan)}
    updates, state = tx.update(grads, tx.init(params), params)
    assert jnp.isfinite(updates["w"]).all()
    assert jnp.isfinite(state.inner[0].mu["w"]).all()


def test_masks_are_found_inside_chains_and_wrappers():
    sparse = jp.sparsify(optax.sgd(0.1), METHODS["magnitude"])
    for tx in (optax.chain(sparse), optax.MultiSteps(sparse, 2), optax.apply_if_finite(sparse, 3)):
        assert jp.masks_of(tx.init(initial()))["a"]["kernel"].all()
    with pytest.raises(ValueError, match="no sparse states"):
        jp.masks_of(optax.sgd(0.1).init(initial()))
    with pytest.raises(ValueError, match="2 sparse states"):
        jp.masks_of(optax.chain(sparse, sparse).init(initial()))


def test_what_is_missing_is_named():
    tx = jp.sparsify(optax.sgd(0.1), METHODS["magnitude"])
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(initial(), tx.init(initial()))
    with pytest.raises(TypeError, match="'key'"):
        jp.sparsify(optax.sgd(0.1), METHODS["rigl"]).init(initial())
    masks = jp.masks.make(initial())
    masks["b"]["kernel"] = jnp.ones((2, 2), bool)
    with pytest.raises(ValueError, match="'b/kernel' has the shape"):
        jp.fixed(optax.sgd(0.1), masks).init(initial())


def test_optimizer_state_is_matched_by_the_longest_path():
    params = {"kernel": jnp.ones((2, 2)), "x": {"kernel": jnp.ones((2, 2))}}
    masks = {"kernel": jnp.eye(2, dtype=bool), "x": {"kernel": None}}
    state = optax.trace(0.9).init(params)
    moved = jax.tree.map(lambda s: s + 1, state)
    found = state_lib.refresh(optax.trace(0.9), moved, params, masks)
    assert found.trace["kernel"].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert found.trace["x"]["kernel"].tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_adagrad_starts_again_from_its_own_initial_value():
    masks = {"w": jnp.eye(8, dtype=bool)}
    tx = jp.fixed(optax.adagrad(0.1, initial_accumulator_value=0.3), masks)
    params = jp.masks.apply({"w": W}, masks)
    _, state = tx.update({"w": W}, tx.init(params), params)
    accumulated = state.inner[0].sum_of_squares["w"]
    assert (accumulated[~masks["w"]] == jnp.float32(0.3)).all()
    assert (accumulated[masks["w"]] > 0.3).all()


def test_narrow_updates_land_on_zero_too():
    tx = jp.sparsify(optax.sgd(0.1), jp.methods.magnitude(sparsity=0.5))
    updates, state = tx.update({"w": W.astype(jnp.bfloat16)}, tx.init({"w": W}), {"w": W})
    jp.masks.check(optax.apply_updates({"w": W}, updates), jp.masks_of(state))


@dataclasses.dataclass
class Attention:
    query: jax.Array
    value: jax.Array


jax.tree_util.register_dataclass(Attention, data_fields=["query", "value"], meta_fields=[])


def test_a_field_named_value_is_a_parameter_like_others():
    params = Attention(W, W + 1)
    tx = jp.sparsify(optax.sgd(0.1, momentum=0.9), jp.methods.magnitude(sparsity=0.5, at=1))
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(params, state, params)
    jp.masks.check(state.inner[0].trace, jp.masks_of(state))


def test_weights_that_are_dead_at_the_start_stay_so_within_a_living_unit():
    params = {"w": jax.random.normal(jax.random.key(0), (8, 8))}
    masks = {"w": jnp.abs(params["w"]) > 0.7}
    channels = jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.channel())
    pruned, after = jp.prune(params, channels, masks=masks)
    assert not (after["w"] & ~masks["w"]).any()
    assert not pruned["w"][~masks["w"]].any()
    tx = jp.sparsify(optax.sgd(0.1), channels, masks=masks)
    _, state = tx.update(params, tx.init(params), params)
    assert not (jp.masks_of(state)["w"] & ~masks["w"]).any()


def test_what_grows_in_the_first_update_starts_from_zero_though_nobody_has_masked():
    params = {"w": jnp.arange(1.0, 17.0).reshape(4, 4)}
    masks = {"w": jnp.arange(16).reshape(4, 4) >= 8}
    grow = jp.Method(
        jp.criteria.magnitude,
        schedule=jp.schedules.every(2, sparsity=0.5, begin=0, end=9),
        update=jp.updates.regrow(jp.criteria.gradient, fraction=0.5),
    )
    tx = jp.sparsify(optax.sgd(0.0), grow, masks=masks)
    updates, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    after, new = optax.apply_updates(params, updates)["w"], jp.masks_of(state)["w"]
    assert (new & ~masks["w"]).sum() == 4
    assert not after[new & ~masks["w"]].any()
    assert (after[new & masks["w"]] == params["w"][new & masks["w"]]).all()


def test_masks_to_start_from_are_refused_where_they_mean_nothing():
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    half = {"a": jnp.eye(4) > 0, "b": jnp.eye(4) > 0}
    method = jp.methods.magnitude(sparsity=0.75)
    still = optax.partition({"t": optax.sgd(0.1), "z": optax.set_to_zero()}, {"a": "t", "b": "z"})
    refused = {
        r"'b', which the wrapped optimizer never changes": (still, method, half),
        r"no mask for any leaf": (optax.sgd(0.1), method, {"a": None, "b": None}),
        r"no mask for any leaf of 'b'": (
            optax.sgd(0.1),
            jp.partition({"a": method, "b": method}),
            {"a": half["a"], "b": None},
        ),
        r"which no expression of the partition matches": (
            optax.sgd(0.1),
            jp.partition({"a": method}),
            half,
        ),
    }
    for words, (inner, how, masks) in refused.items():
        with pytest.raises(ValueError, match=words):
            jp.sparsify(inner, how, masks=masks).init(params)
    with pytest.raises(ValueError, match=r"prunable='a'; give one"):
        jp.sparsify(optax.sgd(0.1), method, masks=half, prunable="a").init(params)


def test_only_leaves_that_never_change_are_frozen():
    params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
    label = {"a": "x", "b": "y"}
    frozen = lambda inner: [
        mask is None
        for mask in jp.masks.beside(
            params,
            jp.masks_of(jp.sparsify(inner, jp.methods.magnitude(sparsity=0.5)).init(params)),
        )
    ]
    warm = optax.sgd(optax.linear_schedule(0.0, 0.1, 10))
    assert frozen(optax.partition({"x": warm, "y": optax.set_to_zero()}, label)) == [False, True]
    assert frozen(optax.freeze({"a": True, "b": False})) == [True, False]
    polyak = optax.partition({"x": optax.polyak_sgd(), "y": optax.adam(0.1)}, label)
    assert frozen(polyak) == [False, False]
    assert frozen(optax.sgd(0.0)) == [False, False]


def test_no_state_holds_an_array_of_the_caller():
    params = {"w": jnp.arange(16.0).reshape(4, 4)}
    masks = {"w": jnp.eye(4) > 0}
    key = jax.random.PRNGKey(0)  # a legacy key is an array itself
    plan = jp.lottery.Plan(round_steps=2, rounds=1)
    method = jp.methods.magnitude(sparsity=0.5)
    sam = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1))
    transforms = [
        jp.sparsify(sam, method, masks=masks, key=key),
        jp.sparsify(optax.contrib.schedule_free_sgd(), method, masks=masks, packed=True),
        jp.fixed(sam, masks),
        jp.straight_through(sam, jp.methods.ste(sparsity=0.5, end=9), masks=masks, key=key),
        jp.lottery_ticket(sam, method, plan, masks=masks, key=key),
        jp.growing(sam, masks, decay=0.1, until=9),
        jp.proximal(optax.sgd(0.1), jp.penalties.l1(0.1), 0.1),
        jp.averaged(jp.fixed(sam, masks), 0.9),
        jp.recorded(jp.fixed(sam, masks)),
    ]
    theirs = {id(leaf) for leaf in jax.tree.leaves((params, masks, key))}
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, masks, key))}
    for tx in transforms:
        state = tx.init(params)
        for leaf in jax.tree.leaves((state, tx.update(params, state, params)[1])):
            assert id(leaf) not in theirs
            assert leaf.unsafe_buffer_pointer() not in pointers


@pytest.mark.parametrize("packed", [False, True])
def test_seeds_side_by_side_have_masks_side_by_side(packed):
    params = {"w": jnp.stack([W, -W, W.T]), "s": jnp.ones((3, 9))}
    tx = jp.sparsify(
        optax.sgd(0.1), jp.methods.magnitude(sparsity=0.5), packed=packed, prunable="."
    )
    _, state = jax.vmap(tx.update)(params, jax.vmap(tx.init)(params), params)
    together, apart = jp.masks_of(state), jax.vmap(jp.masks_of)(state)
    assert jax.tree.map(jnp.shape, together) == jax.tree.map(jnp.shape, params)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, together, apart))
    assert (together["w"].sum((1, 2)) == W.size // 2).all()


def test_a_target_below_the_start_is_refused_where_nothing_grows():
    falling = jp.schedules.cubic(sparsity=0.5, begin=2, end=6, initial=0.9)
    method = jp.Method(jp.criteria.magnitude, schedule=falling)
    for transform in (
        jp.sparsify(optax.sgd(0.1), method),
        jp.sparsify(optax.sgd(0.1), jp.partition({"w": method})),
    ):
        with pytest.raises(
            ValueError, match=r"removes 0.9 at step 2 and 0.5 at its end.*reselect\(\)"
        ):
            transform.init({"w": W})
        with pytest.raises(ValueError, match=r"removes 0.9 at step 2"):
            jax.jit(transform.init)({"w": W})
    jp.prune({"w": W}, method)  # it goes to the target at once
    growing = jp.Method(jp.criteria.magnitude, schedule=falling, update=jp.updates.reselect())
    params, tx = {"w": W}, jp.sparsify(optax.sgd(0.0), growing)
    state = tx.init(params)
    for _ in range(7):
        _, state = tx.update(params, state, params)
    assert int(jp.masks_of(state)["w"].sum()) == W.size // 2
